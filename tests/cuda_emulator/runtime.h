// What the emulated runtime's files share: its one state, behind one lock.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/host_api.h"

namespace emulator {

// Work in stream order; what it returns is the device's state after it.
using Work = std::function<cudaError_t()>;

struct Graph {
  std::vector<Work> works;
};

struct Stream {
  std::deque<Work> works;
  unsigned long long queued = 0;    // works ever queued
  unsigned long long finished = 0;  // and done
  std::unique_ptr<Graph> capture;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool invalidated = false;
};

struct Event {
  Stream* stream = nullptr;
  unsigned long long at = 0;  // done when stream->finished reaches it
};

class Runtime {
 public:
  static Runtime& Get();

  std::recursive_mutex mutex;
  cudaError_t sticky = cudaSuccess;  // every later call fails with it
  std::string report;                // of the kernel that failed
  LaneOrder order = LaneOrder::kForward;
  size_t memory = 0;
  size_t allocated = 0;
  int devices = 1;
  std::map<void*, size_t> device_blocks;
  std::map<void*, size_t> pinned_blocks;
  std::vector<std::unique_ptr<Stream>> streams;
  std::map<const void*, int> shared_limits;  // cudaFuncSetAttribute
  EmulatorCounts counts = {};

  // What shall fail: the countdown reaches zero.
  std::string failing;
  long long countdown = 0;
  void Plan(const char* plan);
  // Whether this one, of `kind`, is to fail.
  bool Fails(const char* kind);

  // Queues, or records while the stream is captured.
  cudaError_t Add(Stream* stream, Work work);
  // Runs what the stream holds up to its `until`-th work.
  cudaError_t Flush(Stream* stream, unsigned long long until);
  cudaError_t FlushAll();
  bool Capturing() const;

 private:
  Runtime();
};

}  // namespace emulator

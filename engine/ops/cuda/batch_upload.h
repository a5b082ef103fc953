// Brings a step's batch to the device: one asynchronous copy, to addresses that depend only on the
// step's shape.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "engine/ops/backend.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/cuda/device_memory.h"

namespace t2r::cuda {

// Whether every row of the batch stands alone: one session's next token each.
bool IsDecode(const Batch& batch);

// Bytes of the largest upload within the limits.
size_t UploadBytes(const StepLimits& limits);

class BatchUploader {
 public:
  // Allocates nothing yet. Must not outlive the stream.
  explicit BatchUploader(cudaStream_t stream);
  ~BatchUploader();
  BatchUploader(const BatchUploader&) = delete;
  BatchUploader& operator=(const BatchUploader&) = delete;

  // Makes room for uploads of `bytes`; waits for the stream where it must grow. True when device
  // addresses changed: what was recorded with them is void.
  bool Reserve(size_t bytes);

  // Packs the batch, padded to `shape`, and queues its copy. Waits only if the copy of three steps
  // ago is still under way. Decode steps: singles[i] is row i. The room must be reserved.
  DeviceBatch Upload(const Batch& batch, const StepShape& shape);
  // What Upload needs for this batch.
  static size_t BytesOf(const Batch& batch, const StepShape& shape);

 private:
  struct Slot {
    PinnedArray<std::byte> host;
    cudaEvent_t copied = nullptr;
  };
  cudaStream_t stream_;
  std::array<Slot, 3> ring_;
  size_t next_ = 0;
  DeviceArray<std::byte> device_;
};

}  // namespace t2r::cuda

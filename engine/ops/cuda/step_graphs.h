// Recorded steps of decodes, replayed as CUDA graphs.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <tuple>

#include "engine/ops/backend.h"

namespace t2r::cuda {

// The next of the sizes that steps of decodes are rounded up to, at most `limit` (≥ rows).
int64_t PaddedRows(int64_t rows, int64_t limit);

// One thread at a time; must not outlive the stream.
class StepGraphs {
 public:
  explicit StepGraphs(cudaStream_t stream) : stream_(stream) {}
  ~StepGraphs() { Clear(); }
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // The first time for a model and shape, runs `ops` as they are: whatever is loaded, chosen or
  // allocated at first use is so then. The second time records and replays them, from then on it
  // replays. Where `ops` throws while they are recorded, the record is dropped and nothing ran.
  void Run(const void* model, const StepShape& shape, const std::function<void()>& ops);
  // Drops all records: memory they read has moved or gone.
  void Clear() noexcept;
  size_t recorded() const { return recorded_; }
  // Kernels of the step replayed last.
  size_t kernels() const { return kernels_; }

 private:
  using Key = std::tuple<const void*, int64_t, int64_t>;
  struct Recorded {
    cudaGraphExec_t graph = nullptr;  // null: has run once
    size_t kernels = 0;
  };
  Recorded Record(const std::function<void()>& ops);

  cudaStream_t stream_;
  std::map<Key, Recorded> graphs_;
  size_t recorded_ = 0;
  size_t kernels_ = 0;
};

}  // namespace t2r::cuda

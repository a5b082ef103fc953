#include "engine/ops/cuda/step_graphs.h"

#include <algorithm>
#include <iterator>

#include "engine/ops/cuda/error.h"

namespace t2r::cuda {
namespace {

constexpr int64_t kSizes[] = {1,   2,   4,   8,   16,   24,   32,   48,   64,   96,   128, 192,
                              256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192};

}  // namespace

int64_t PaddedRows(int64_t rows, int64_t limit) {
  const auto* const size = std::lower_bound(std::begin(kSizes), std::end(kSizes), rows);
  return size == std::end(kSizes) ? rows : std::max(rows, std::min(*size, limit));
}

void StepGraphs::Run(const void* model, const StepShape& shape, const std::function<void()>& ops) {
  const auto [entry, first] = graphs_.try_emplace(Key(model, shape.rows, shape.logit_rows));
  if (first) return ops();
  Recorded& recorded = entry->second;
  if (recorded.graph == nullptr) {
    recorded = Record(ops);
    ++recorded_;
  }
  kernels_ = recorded.kernels;
  Check(cudaGraphLaunch(recorded.graph, stream_), "cudaGraphLaunch of a step");
}

StepGraphs::Recorded StepGraphs::Record(const std::function<void()>& ops) {
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    ops();
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(stream_, &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    throw;
  }
  Check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  Recorded recorded;
  cudaError_t error = cudaGraphGetNodes(graph, nullptr, &recorded.kernels);
  if (error == cudaSuccess) error = cudaGraphInstantiate(&recorded.graph, graph, 0);
  static_cast<void>(cudaGraphDestroy(graph));
  Check(error, "cudaGraphInstantiate");
  return recorded;
}

void StepGraphs::Clear() noexcept {
  for (const auto& [key, recorded] : graphs_) {
    if (recorded.graph != nullptr) static_cast<void>(cudaGraphExecDestroy(recorded.graph));
  }
  graphs_.clear();
}

}  // namespace t2r::cuda

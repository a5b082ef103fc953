#include "bench/null_executor.h"

#include <utility>

namespace t2r::bench {

NullExecutor::NullExecutor(ExecutorLimits limits) : limits_(std::move(limits)) {
  limits_.prefix_states = 0;
  for (int slot = limits_.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

int NullExecutor::Open(const SessionSize& size, const SamplingParams& /*sampling*/) {
  if (!CanOpen(size, 1)) return -1;
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void NullExecutor::Wait(std::vector<ChunkResult>* results) {
  results->assign(chunks_.size(), ChunkResult());
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const ScheduledChunk& chunk = chunks_[i];
    ChunkResult& result = (*results)[i];
    result.scores.assign(chunk.targets.size(), -1.0F);
    if (!chunk.sample) continue;
    const int64_t position = chunk.position + static_cast<int64_t>(chunk.tokens.size());
    result.sampled = {static_cast<int32_t>(position % limits_.vocab_size), -1.0F};
    for (int top = 0; top < chunk.top_logprobs; ++top) result.top.push_back({top, -1.0F});
  }
}

}  // namespace t2r::bench

#include "engine/scheduler/beam_group.h"

#include <algorithm>
#include <cassert>
#include <span>
#include <utility>

namespace t2r {

BeamGroup::BeamGroup(BeamSearch search, int vocab_size)
    : search_(std::move(search)),
      alternatives_(static_cast<int>(std::min<int64_t>(search_.alternatives(), vocab_size))),
      tops_(1) {}

void BeamGroup::Open(std::vector<int> slots) {
  slots_ = std::move(slots);
  running_ = {slots_.front()};
  // The first of them is taken first.
  spare_.assign(slots_.rbegin(), slots_.rend() - 1);
}

ScheduledChunk BeamGroup::NextChunk(int64_t i) const {
  const size_t beam = taken_ + static_cast<size_t>(i);
  ScheduledChunk chunk;
  chunk.slot = running_[beam];
  chunk.tokens = std::span(&search_.beams()[beam].token, 1);
  chunk.sample = true;
  chunk.top_logprobs = alternatives_;
  return chunk;
}

bool BeamGroup::Accept(ChunkResult&& result) {
  assert(!done() && due() > 0);
  tops_[taken_++] = std::move(result.top);
  if (due() > 0) return false;
  search_.Advance(tops_);
  taken_ = 0;
  if (!done()) PlaceBeams();
  return true;
}

void BeamGroup::PlaceBeams() {
  constexpr int kNone = -1;
  const std::span<const BeamSearch::Beam> beams = search_.beams();
  std::vector<bool> has_child(running_.size(), false);
  std::vector<int> next(beams.size(), kNone);
  for (size_t i = 0; i < beams.size(); ++i) {
    const auto parent = static_cast<size_t>(beams[i].parent);
    if (!has_child[parent]) next[i] = running_[parent];
    has_child[parent] = true;
  }
  for (size_t i = 0; i < running_.size(); ++i) {
    if (!has_child[i]) spare_.push_back(running_[i]);
  }
  for (size_t i = 0; i < beams.size(); ++i) {
    if (next[i] != kNone) continue;
    next[i] = spare_.back();
    spare_.pop_back();
    copies_.push_back({running_[static_cast<size_t>(beams[i].parent)], next[i]});
  }
  running_ = std::move(next);
  tops_.resize(running_.size());
}

}  // namespace t2r

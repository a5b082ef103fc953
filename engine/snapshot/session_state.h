// A sequence between two of its requests: all that the next one needs to go on as if there had been
// no end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/sampling/params.h"
#include "engine/text/stop_matcher.h"
#include "engine/tokenizer/incremental_decoder.h"

namespace t2r {

// Immutable once made, so that requests, forks and stores can share one.
struct SessionState {
  SlotState slot;
  int32_t last_token = 0;  // sampled, but not yet run through the model
  // Of the request that left this: how it sampled, its seed included, and what it stopped at.
  SamplingParams sampling;
  std::vector<std::string> stop;
  bool include_stop = false;
  // What its text stands at. What is held back for a stop string goes on only where the stop
  // strings stay the same.
  IncrementalDecoder::State decoder;
  StopMatcher::Held held;

  // Tokens of the sequence, prompts and generated ones.
  int64_t position() const { return slot.positions + 1; }
  // What it takes in memory, about.
  int64_t bytes() const { return slot.bytes() + static_cast<int64_t>(sizeof(SessionState)); }
};

}  // namespace t2r

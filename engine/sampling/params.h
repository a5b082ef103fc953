// How a session's next token is chosen. Plain data with every default filled in.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace t2r {

struct SamplingParams {
  float temperature = 1.0F;  // 0: greedy (the lowest id wins a tie)
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0F;        // 1: off
  float min_p = 0.0F;        // 0: off; keeps p ≥ min_p · max p
  float repetition_penalty =
      1.0F;  // divides positive, multiplies negative logits of seen tokens (prompt too)
  float frequency_penalty = 0.0F;  // subtracted per occurrence among generated tokens
  float presence_penalty = 0.0F;   // subtracted once for each generated token
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to the logits
  // The draw for the token at position p is a pure function of (seed, sequence, p).
  uint64_t seed = 0;
  uint64_t sequence = 0;
};

}  // namespace t2r

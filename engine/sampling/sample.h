// What is wanted of one row of logits: a sampled token, log probabilities, or both.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/sampling/params.h"

namespace t2r {

// What changes the logit of one token before sampling, in this order: logit + bias; the repetition
// penalty if seen; − frequency_penalty · generated − presence_penalty if generated > 0.
struct TokenAdjustment {
  int32_t token = 0;
  int32_t generated = 0;  // times among the generated tokens
  float bias = 0;         // logit bias
  bool seen = false;      // in the prompt or generated; only kept with a repetition penalty
};

// Alternatives that a request may ask for.
inline constexpr int kMaxAlternatives = 128;

// One row of the logits.
struct SampleRequest {
  int32_t row = 0;  // of the logits
  // Null: no token is sampled.
  const SamplingParams* sampling = nullptr;
  uint64_t position = 0;                         // the sampled token's, for the random draw
  std::span<const TokenAdjustment> adjustments;  // ascending tokens, no duplicates
  int32_t top = 0;                               // alternatives to report, at most kMaxAlternatives
  // A token whose log probability is wanted, −∞ for one outside the vocabulary; -1: none.
  int32_t target = -1;
};

// Log probabilities are natural, of the raw row (before adjustments and temperature).
struct SampleResult {
  int32_t token = 0;
  float logprob = 0;                           // of token
  float target_logprob = 0;                    // of SampleRequest::target
  std::vector<std::pair<int32_t, float>> top;  // best first, ties by lower id
  // False where a logit of the row was NaN or infinite; the rest then means nothing.
  bool finite = true;
};

}  // namespace t2r

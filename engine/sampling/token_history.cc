#include "engine/sampling/token_history.h"

#include <algorithm>

namespace t2r {

TokenHistory::TokenHistory(const SamplingParams& params)
    : keeps_seen_(params.repetition_penalty != 1.0F),
      keeps_generated_(params.frequency_penalty != 0.0F || params.presence_penalty != 0.0F) {
  for (const auto& [token, bias] : params.logit_bias) Of(token).bias += bias;
}

void TokenHistory::See(std::span<const int32_t> tokens) {
  if (!keeps_seen_) return;
  for (const int32_t token : tokens) Of(token).seen = true;
}

void TokenHistory::Generate(int32_t token) {
  if (keeps_generated_) ++Of(token).generated;
}

TokenAdjustment& TokenHistory::Of(int32_t token) {
  const auto at = std::lower_bound(
      adjustments_.begin(), adjustments_.end(), token,
      [](const TokenAdjustment& adjustment, int32_t value) { return adjustment.token < value; });
  if (at != adjustments_.end() && at->token == token) return *at;
  TokenAdjustment added;
  added.token = token;
  return *adjustments_.insert(at, added);
}

}  // namespace t2r

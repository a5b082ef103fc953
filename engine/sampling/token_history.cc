#include "engine/sampling/token_history.h"

#include <algorithm>

namespace t2r {

TokenHistory::TokenHistory(const SamplingParams& params)
    : keeps_seen_(params.repetition_penalty != 1.0F),
      keeps_generated_(params.frequency_penalty != 0.0F || params.presence_penalty != 0.0F) {
  for (const auto& [token, bias] : params.logit_bias) Of(token).bias += bias;
}

TokenHistory TokenHistory::Whole() {
  TokenHistory history;
  history.keeps_seen_ = true;
  history.keeps_generated_ = true;
  return history;
}

void TokenHistory::Adopt(std::span<const TokenAdjustment> kept) {
  for (const TokenAdjustment& from : kept) {
    if (keeps_seen_ && from.seen) Of(from.token).seen = true;
    if (keeps_generated_ && from.generated > 0) Of(from.token).generated = from.generated;
  }
}

void TokenHistory::See(std::span<const int32_t> tokens) {
  if (!keeps_seen_) return;
  new_tokens_.clear();
  for (const int32_t token : tokens) {
    TokenAdjustment* known = Find(token);
    if (known != nullptr) {
      known->seen = true;
    } else {
      new_tokens_.push_back(token);
    }
  }
  std::sort(new_tokens_.begin(), new_tokens_.end());
  new_tokens_.erase(std::unique(new_tokens_.begin(), new_tokens_.end()), new_tokens_.end());
  // Two ascending lists without a token in common are merged from the back, each entry moved once.
  auto known = static_cast<int64_t>(adjustments_.size()) - 1;
  adjustments_.resize(adjustments_.size() + new_tokens_.size());
  auto place = static_cast<int64_t>(adjustments_.size()) - 1;
  for (auto added = static_cast<int64_t>(new_tokens_.size()) - 1; added >= 0; --place) {
    if (known >= 0 && adjustments_[known].token > new_tokens_[added]) {
      adjustments_[place] = adjustments_[known--];
    } else {
      adjustments_[place] = TokenAdjustment();
      adjustments_[place].token = new_tokens_[added--];
      adjustments_[place].seen = true;
    }
  }
}

void TokenHistory::Generate(int32_t token) {
  if (keeps_generated_) ++Of(token).generated;
}

TokenAdjustment* TokenHistory::Find(int32_t token) {
  const auto at = std::lower_bound(
      adjustments_.begin(), adjustments_.end(), token,
      [](const TokenAdjustment& adjustment, int32_t value) { return adjustment.token < value; });
  return at != adjustments_.end() && at->token == token ? &*at : nullptr;
}

TokenAdjustment& TokenHistory::Of(int32_t token) {
  if (TokenAdjustment* known = Find(token)) return *known;
  TokenAdjustment added;
  added.token = token;
  const auto at = std::upper_bound(
      adjustments_.begin(), adjustments_.end(), token,
      [](int32_t value, const TokenAdjustment& adjustment) { return value < adjustment.token; });
  return *adjustments_.insert(at, added);
}

}  // namespace t2r

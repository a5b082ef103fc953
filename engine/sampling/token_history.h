// What a session's logit biases and penalties need to know of its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling/sample.h"

namespace t2r {

// Nothing is kept that the parameters do not use: without biases and penalties it stays empty.
class TokenHistory {
 public:
  TokenHistory() = default;
  explicit TokenHistory(const SamplingParams& params);
  // Keeps all that any parameters use, and no biases: for a sequence whose later requests may have
  // other parameters.
  static TokenHistory Whole();

  // Tokens that went through the model, of the prompt and generated ones alike. Costs
  // n log n + what is kept already, for n tokens.
  void See(std::span<const int32_t> tokens);
  // A token was sampled.
  void Generate(int32_t token);

  // Goes on from what a Whole history has kept: ascending tokens, none twice. Before anything else.
  void Adopt(std::span<const TokenAdjustment> kept);

  // Ascending tokens. Valid until the next non-const call.
  std::span<const TokenAdjustment> adjustments() const { return adjustments_; }

 private:
  TokenAdjustment* Find(int32_t token);
  TokenAdjustment& Of(int32_t token);

  bool keeps_seen_ = false;
  bool keeps_generated_ = false;
  std::vector<TokenAdjustment> adjustments_;
  std::vector<int32_t> new_tokens_;  // of See, reused from call to call
};

}  // namespace t2r

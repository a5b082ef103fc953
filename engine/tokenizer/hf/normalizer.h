// Rewrites a text before it is cut into words.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

// A chain of rewriting steps. Immutable; safe to use from many threads.
class Normalizer {
 public:
  // Leaves a text as it is.
  Normalizer() = default;
  // From tokenizer.json's `normalizer` (which may be null): Sequence, Prepend, Replace, NFC.
  // UNIMPLEMENTED for others. `where` names it in errors.
  static absl::StatusOr<Normalizer> FromJson(const nlohmann::json& json, const std::string& where);

  // `text` is valid UTF-8, and so is the result.
  absl::StatusOr<std::string> Apply(std::string text) const;

 private:
  using Step = std::function<absl::StatusOr<std::string>(std::string)>;
  static absl::Status AddSteps(const nlohmann::json& json, const std::string& where, int nesting,
                               std::vector<Step>* steps);

  std::vector<Step> steps_;
};

}  // namespace t2r

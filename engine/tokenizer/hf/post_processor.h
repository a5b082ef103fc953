// The tokens that tokenizer.json puts around a text.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

struct PostProcessor {
  std::vector<int32_t> prefix, suffix;

  // TemplateProcessing (its `single`), BertProcessing, RobertaProcessing, ByteLevel, Sequence, or
  // null. Ids must be below `id_limit`. `where` names it in errors.
  static absl::StatusOr<PostProcessor> FromJson(const nlohmann::json& json,
                                                const std::string& where, int32_t id_limit);
};

}  // namespace t2r

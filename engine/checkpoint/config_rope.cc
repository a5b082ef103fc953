// RoPE scaling in config.json.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"

namespace t2r {

void ReadRopeScaling(JsonFields& fields, ModelConfig* config) {
  // `rope_parameters` is the newer name and then holds rope_theta too.
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* value = fields.Find(name);
    if (value == nullptr) continue;
    if (!value->is_object()) {
      fields.Invalid(name, "must be an object or null");
      return;
    }
    JsonFields scaling(*value, absl::StrCat(fields.prefix(), name, "."));
    for (const auto& [key, entry] : value->items()) {
      if (entry.is_object()) scaling.Unimplemented(key, "is an object, which is not supported");
    }
    config->rope_theta = scaling.Number("rope_theta", 1e-6, 1e30, config->rope_theta);
    if (scaling.Number("partial_rotary_factor", 0, 1, 1.0) != 1.0) {
      scaling.Unimplemented("partial_rotary_factor", "other than 1 is not supported");
    }
    const std::string type =
        scaling.String("rope_type", scaling.String("type", std::string("default")));
    if (type == "linear" || type == "llama3") {
      RopeScaling rope;
      rope.factor = scaling.Number("factor", 1e-6, 1e9);
      rope.kind = RopeScaling::Kind::kLinear;
      if (type == "llama3") {
        rope.kind = RopeScaling::Kind::kLlama3;
        rope.low_freq_factor = scaling.Number("low_freq_factor", 0, 1e9);
        rope.high_freq_factor = scaling.Number("high_freq_factor", 0, 1e9);
        const auto original = static_cast<double>(fields.Integer(
            "original_max_position_embeddings", 1, kMaxPositions, config->max_position_embeddings));
        rope.original_max_position_embeddings =
            scaling.Number("original_max_position_embeddings", 1, 1e12, original);
        if (!(rope.low_freq_factor < rope.high_freq_factor)) {
          scaling.Invalid("low_freq_factor", "must be less than high_freq_factor");
        }
      }
      config->rope_scaling = rope;
    } else if (type != "default") {
      scaling.Unimplemented(
          scaling.Has("rope_type") ? "rope_type" : "type",
          absl::StrCat("is \"", type, "\"; supported are default, linear and llama3"));
    }
    fields.Record(scaling.status());
  }
}

}  // namespace t2r

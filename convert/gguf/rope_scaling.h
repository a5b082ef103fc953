// How RoPE's frequencies are scaled, in GGUF's terms and in HF's.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "convert/gguf/gguf_file.h"
#include "convert/gguf/metadata.h"

namespace t2r::convert {

struct RopeSettings {
  double theta = 0;
  int64_t head_dim = 0;
};

// The value of config.json's rope_scaling, null for none. The keys begin with `prefix`, such as
// "llama.". `factors` is the tensor rope_freqs.weight (null: there is none): what each of the
// head_dim/2 frequencies is divided by. It is how files have Llama 3's scaling, whose parameters
// they leave out: those are found here, and factors that they do not reproduce are refused.
nlohmann::ordered_json RopeScalingJson(const GgufMetadata& metadata, const std::string& prefix,
                                       const RopeSettings& rope, const GgufTensor* factors);

}  // namespace t2r::convert

#include "engine/checkpoint/config_families.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

// One line a kind of config.json; its reader names the forward pass.
constexpr ConfigFamily kFamilies[] = {
    {"LlamaForCausalLM", "llama", ReadLlama},        {"Qwen2ForCausalLM", "qwen2", ReadQwen2},
    {"Qwen3ForCausalLM", "qwen3", ReadQwen3},        {"MistralForCausalLM", "mistral", ReadMistral},
    {"Phi3ForCausalLM", "phi3", ReadPhi3},           {"GPT2LMHeadModel", "gpt2", ReadGpt2},
    {"GPTNeoXForCausalLM", "gpt_neox", ReadGptNeox}, {"MarianMTModel", "marian", ReadMarian},
};

// "A, B and C", as a message says what is supported.
std::string Supported() {
  std::string names = "supported are ";
  for (size_t i = 0; i < std::size(kFamilies); ++i) {
    const char* join = i == 0 ? "" : i + 1 == std::size(kFamilies) ? " and " : ", ";
    absl::StrAppend(&names, join, kFamilies[i].architecture);
  }
  return names;
}

// A key and the number (beside null, false and empty) at which it changes nothing.
struct Neutral {
  const char* key;
  double value;
};
constexpr Neutral kUnsupported[] = {
    {"quantization_config", NAN},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"attn_logit_softcapping", NAN},
    {"final_logit_softcapping", NAN},
    {"partial_rotary_factor", 1},
    {"rotary_pct", 1},
    {"residual_multiplier", 1},
    {"embedding_multiplier", 1},
    {"attention_multiplier", NAN},
    {"query_pre_attn_scalar", NAN},
    {"scale_emb", 1},
    {"scale_depth", NAN},
    {"dim_model_base", NAN},
    {"num_local_experts", NAN},
    {"num_experts", NAN},
    {"n_routed_experts", NAN},
    {"moe_intermediate_size", NAN},
    {"use_qk_norm", 0},
    {"qk_norm", 0},
    {"qk_layernorm", 0},
    {"clip_qkv", NAN},
    {"alibi", 0},
    {"use_alibi", 0},
    {"kv_lora_rank", NAN},
    {"q_lora_rank", NAN},
    {"no_rope_layers", NAN},
    {"no_rope_layer_interval", NAN},
    {"attention_chunk_size", NAN},
    {"use_parallel_residual", 0},
    {"use_bidirectional_attention", 0},
    {"pruned_heads", NAN},
};
// The same for models that are not encoder-decoders.
constexpr Neutral kEncoderDecoderKeys[] = {
    {"is_encoder_decoder", 0},
    {"add_cross_attention", 0},
    {"cross_layer_types", NAN},
};

bool ChangesNothing(const nlohmann::json& value, double neutral) {
  if (value.is_boolean()) return !value.get<bool>() || neutral == 1;
  if (value.is_number()) return value.get<double>() == neutral;
  return value.is_structured() && value.empty();
}

void Refuse(JsonFields& fields, std::span<const Neutral> keys,
            std::span<const std::string_view> read) {
  for (const Neutral& neutral : keys) {
    if (std::find(read.begin(), read.end(), neutral.key) != read.end()) continue;
    const nlohmann::json* value = fields.Find(neutral.key);
    if (value != nullptr && !ChangesNothing(*value, neutral.value)) {
      fields.Unimplemented(neutral.key, "is set, which is not supported");
    }
  }
}

}  // namespace

const ConfigFamily* FindFamily(JsonFields& fields) {
  const ConfigFamily* by_architecture = nullptr;
  if (const nlohmann::json* names = fields.Find("architectures"); names != nullptr) {
    if (!names->is_array() || (!names->empty() && !names->front().is_string())) {
      fields.Invalid("architectures", "must be an array of strings");
      return nullptr;
    }
    if (!names->empty()) {
      const auto name = names->front().get<std::string>();
      for (const ConfigFamily& family : kFamilies) {
        if (name == family.architecture) by_architecture = &family;
      }
      if (by_architecture == nullptr) {
        fields.Unimplemented("architectures", absl::StrCat("names ", name, "; ", Supported()));
        return nullptr;
      }
    }
  }
  const std::string type = fields.String("model_type", std::string());
  for (const ConfigFamily& family : kFamilies) {
    if (type != family.model_type) continue;
    if (by_architecture != nullptr && by_architecture != &family) {
      fields.Invalid("model_type", absl::StrCat("is \"", type, "\" but architectures names ",
                                                by_architecture->architecture));
    }
    return &family;
  }
  if (!type.empty()) {
    fields.Unimplemented("model_type", absl::StrCat("is \"", type, "\"; ", Supported()));
  } else if (by_architecture == nullptr) {
    fields.Invalid("architectures",
                   absl::StrCat("is missing, and so is model_type; ", Supported()));
  }
  return by_architecture;
}

void RefuseUnsupportedKeys(JsonFields& fields, bool encoder_decoder,
                           std::span<const std::string_view> read) {
  Refuse(fields, kUnsupported, read);
  if (!encoder_decoder) Refuse(fields, kEncoderDecoderKeys, read);
}

void RefuseSlidingWindow(JsonFields& fields) {
  if (fields.Has("sliding_window")) {
    fields.Unimplemented("sliding_window", "is set; only null is supported");
  }
}

void CheckHeads(JsonFields& fields, const char* heads_key, ModelConfig* config) {
  if (config->heads % config->kv_heads != 0) {
    fields.Invalid("num_key_value_heads",
                   absl::StrCat("is ", config->kv_heads, ", which does not divide ", heads_key, " ",
                                config->heads));
  }
  if (int64_t{config->heads} * config->head_dim > kMaxWidth * 4) {
    fields.Invalid(heads_key, absl::StrCat("times head_dim is more than ", kMaxWidth * 4));
  }
}

}  // namespace t2r

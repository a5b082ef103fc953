#include "engine/checkpoint/config_families.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

struct FamilyName {
  Family family;
  const char* architecture;
  const char* model_type;
};
constexpr FamilyName kFamilies[] = {
    {Family::kLlama, "LlamaForCausalLM", "llama"},
    {Family::kQwen2, "Qwen2ForCausalLM", "qwen2"},
    {Family::kMistral, "MistralForCausalLM", "mistral"},
    {Family::kGpt2, "GPT2LMHeadModel", "gpt2"},
    {Family::kMarian, "MarianMTModel", "marian"},
};
constexpr const char* kSupported =
    "supported are LlamaForCausalLM, Qwen2ForCausalLM, MistralForCausalLM, GPT2LMHeadModel and "
    "MarianMTModel";

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

void Refuse(JsonFields& fields, std::span<const Neutral> keys) {
  for (const Neutral& neutral : keys) {
    const nlohmann::json* value = fields.Find(neutral.key);
    if (value != nullptr && !ChangesNothing(*value, neutral.value)) {
      fields.Unimplemented(neutral.key, "is set, which is not supported");
    }
  }
}

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

// `sliding_window`: layers from `first` on attend to the last so many positions, their own
// included, which is linear attention with a window and no map. The layers' sizes must have been
// read.
void ReadSlidingWindow(JsonFields& fields, int64_t absent, int first, ModelConfig* config) {
  if (fields.object().contains("sliding_window") && !fields.Has("sliding_window")) return;  // null
  LinearAttentionConfig sliding;
  sliding.feature_map = FeatureMapKind::kNone;
  sliding.window = static_cast<int>(fields.Integer("sliding_window", 1, kMaxWindow, absent));
  sliding.query_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config->head_dim)));
  if (int64_t{2} * config->kv_heads * config->head_dim * sliding.window > kMaxStateFloats) {
    fields.Invalid("sliding_window", absl::StrCat("makes a layer's state larger than ",
                                                  kMaxStateFloats, " floats a session"));
  }
  config->linear_attention = sliding;
  config->layer_types.assign(static_cast<size_t>(config->layers), LayerType::kFullAttention);
  for (int i = first; i < config->layers; ++i) {
    config->layer_types[static_cast<size_t>(i)] = LayerType::kLinearAttention;
  }
}

// Qwen's files name a window that only this switch turns on, for layers from one on.
void ReadUsedSlidingWindow(JsonFields& fields, ModelConfig* config) {
  if (!fields.Bool("use_sliding_window", false)) return;
  const int64_t first = fields.Integer("max_window_layers", 0, int64_t{1} << 30, 28);
  ReadSlidingWindow(fields, 4096, static_cast<int>(std::min<int64_t>(first, config->layers)),
                    config);
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

}  // namespace

Family ReadFamily(JsonFields& fields) {
  const FamilyName* by_architecture = nullptr;
  if (const nlohmann::json* names = fields.Find("architectures"); names != nullptr) {
    if (!names->is_array() || (!names->empty() && !names->front().is_string())) {
      fields.Invalid("architectures", "must be an array of strings");
      return Family::kLlama;
    }
    if (!names->empty()) {
      const auto name = names->front().get<std::string>();
      for (const FamilyName& family : kFamilies) {
        if (name == family.architecture) by_architecture = &family;
      }
      if (by_architecture == nullptr) {
        fields.Unimplemented("architectures", absl::StrCat("names ", name, "; ", kSupported));
        return Family::kLlama;
      }
    }
  }
  const std::string type = fields.String("model_type", std::string());
  for (const FamilyName& family : kFamilies) {
    if (type != family.model_type) continue;
    if (by_architecture != nullptr && by_architecture != &family) {
      fields.Invalid("model_type", absl::StrCat("is \"", type, "\" but architectures names ",
                                                by_architecture->architecture));
    }
    return family.family;
  }
  if (!type.empty()) {
    fields.Unimplemented("model_type", absl::StrCat("is \"", type, "\"; ", kSupported));
  } else if (by_architecture == nullptr) {
    fields.Invalid("architectures", absl::StrCat("is missing, and so is model_type; ", kSupported));
  }
  return by_architecture != nullptr ? by_architecture->family : Family::kLlama;
}

void RefuseUnsupportedKeys(JsonFields& fields, Family family) {
  Refuse(fields, kUnsupported);
  if (family != Family::kMarian) Refuse(fields, kEncoderDecoderKeys);
  if (family == Family::kLlama || family == Family::kGpt2 || family == Family::kMarian) {
    if (fields.Has("sliding_window")) {
      fields.Unimplemented("sliding_window", "is set; only null is supported");
    }
  }
  if (family == Family::kGpt2) {
    if (!fields.Bool("scale_attn_weights", true)) {
      fields.Unimplemented("scale_attn_weights", "is false; only true is supported");
    }
    if (fields.Bool("scale_attn_by_inverse_layer_idx", false)) {
      fields.Unimplemented("scale_attn_by_inverse_layer_idx", "is true; only false is supported");
    }
  }
}

void ReadLlamaFields(JsonFields& fields, Family family, ModelConfig* config) {
  config->architecture = Architecture::kLlama;
  config->hidden_size = static_cast<int>(fields.Integer("hidden_size", 1, kMaxWidth));
  config->intermediate_size = static_cast<int>(fields.Integer("intermediate_size", 1, kMaxInner));
  config->layers = static_cast<int>(fields.Integer("num_hidden_layers", 1, kMaxLayers));
  config->heads = static_cast<int>(fields.Integer("num_attention_heads", 1, kMaxHeads));
  config->kv_heads = static_cast<int>(
      fields.Integer("num_key_value_heads", 1, kMaxHeads,
                     family == Family::kMistral ? int64_t{8} : int64_t{config->heads}));
  if (!fields.Has("head_dim") && config->hidden_size % config->heads != 0) {
    fields.Invalid("num_attention_heads",
                   absl::StrCat("is ", config->heads, ", which does not divide hidden_size ",
                                config->hidden_size, "; head_dim is absent"));
  }
  config->head_dim = static_cast<int>(
      fields.Integer("head_dim", 1, kMaxHeadDim, config->hidden_size / config->heads));
  if (config->head_dim % 2 != 0 || config->head_dim == 0) {
    fields.Invalid("head_dim",
                   absl::StrCat("is ", config->head_dim, "; rotary positions need an even one"));
  }
  CheckHeads(fields, "num_attention_heads", config);
  config->vocab_size = static_cast<int>(fields.Integer("vocab_size", 1, kMaxVocabulary));
  config->norm_eps = static_cast<float>(fields.Number("rms_norm_eps", 0, 1, 1e-6));
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  const bool attention_bias = family == Family::kLlama && fields.Bool("attention_bias", false);
  config->qkv_bias = family == Family::kQwen2 || attention_bias;
  config->attention_out_bias = attention_bias;
  config->mlp_bias = family == Family::kLlama && fields.Bool("mlp_bias", false);
  config->rope_theta = fields.Number("rope_theta", 1e-6, 1e30, 10000.0);
  const int64_t positions = family == Family::kQwen2     ? 32768
                            : family == Family::kMistral ? 131072
                                                         : 2048;
  config->max_position_embeddings =
      fields.Integer("max_position_embeddings", 1, kMaxPositions, positions);
  ReadRopeScaling(fields, config);
  const std::string act = fields.String("hidden_act", std::string("silu"));
  if (act != "silu" && act != "swish") {
    fields.Unimplemented("hidden_act", absl::StrCat("is \"", act, "\"; only silu is supported"));
  }
  if (family == Family::kMistral) ReadSlidingWindow(fields, 4096, 0, config);
  if (family == Family::kQwen2) ReadUsedSlidingWindow(fields, config);
}

void ReadGpt2Fields(JsonFields& fields, ModelConfig* config) {
  config->architecture = Architecture::kGpt2;
  config->hidden_size = static_cast<int>(fields.Integer("n_embd", 1, kMaxWidth));
  config->intermediate_size =
      static_cast<int>(fields.Integer("n_inner", 1, kMaxInner, int64_t{4} * config->hidden_size));
  config->layers = static_cast<int>(fields.Integer("n_layer", 1, kMaxLayers));
  config->heads = static_cast<int>(fields.Integer("n_head", 1, kMaxHeads));
  config->kv_heads = config->heads;
  if (config->hidden_size % config->heads != 0) {
    fields.Invalid("n_head", absl::StrCat("is ", config->heads, ", which does not divide n_embd ",
                                          config->hidden_size));
  }
  config->head_dim = config->hidden_size / config->heads;
  config->vocab_size = static_cast<int>(fields.Integer("vocab_size", 1, kMaxVocabulary));
  config->max_position_embeddings =
      fields.Integer(fields.Has("n_positions") || !fields.Has("n_ctx") ? "n_positions" : "n_ctx", 1,
                     kMaxStoredPositions);
  config->norm_eps = static_cast<float>(fields.Number("layer_norm_epsilon", 0, 1, 1e-5));
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", true);
  config->qkv_bias = true;
  config->attention_out_bias = true;
  config->mlp_bias = true;
  const std::string act = fields.String("activation_function", std::string("gelu_new"));
  if (act != "gelu_new" && act != "gelu_pytorch_tanh") {
    fields.Unimplemented(
        "activation_function",
        absl::StrCat("is \"", act, "\"; supported are gelu_new and gelu_pytorch_tanh"));
  }
}

}  // namespace t2r

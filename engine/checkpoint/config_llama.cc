// config.json of Llama and the models that share its forward pass.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"

namespace t2r {
namespace {

// What a family takes where its file says nothing.
struct Defaults {
  int64_t positions = 2048;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden_size over heads
  // Whether the file may ask for biases (attention_bias, mlp_bias), and what is always there.
  bool attention_bias = false;
  bool mlp_bias = false;
  bool qkv_bias = false;
  bool qk_norm = false;
  double norm_eps = 1e-6;
  RopeDialect rope = {};
};

// Llama and its relatives: RMSNorm, rotary positions, grouped queries, SwiGLU.
void ReadFields(JsonFields& fields, const Defaults& defaults, ModelConfig* config) {
  config->architecture = &kLlamaArchitecture;
  config->hidden_size = static_cast<int>(fields.Integer("hidden_size", 1, kMaxWidth));
  config->intermediate_size = static_cast<int>(fields.Integer("intermediate_size", 1, kMaxInner));
  config->layers = static_cast<int>(fields.Integer("num_hidden_layers", 1, kMaxLayers));
  config->heads = static_cast<int>(fields.Integer("num_attention_heads", 1, kMaxHeads));
  config->kv_heads = static_cast<int>(
      fields.Integer("num_key_value_heads", 1, kMaxHeads,
                     defaults.kv_heads > 0 ? defaults.kv_heads : int64_t{config->heads}));
  if (!fields.Has("head_dim") && defaults.head_dim == 0 &&
      config->hidden_size % config->heads != 0) {
    fields.Invalid("num_attention_heads",
                   absl::StrCat("is ", config->heads, ", which does not divide hidden_size ",
                                config->hidden_size, "; head_dim is absent"));
  }
  config->head_dim = static_cast<int>(fields.Integer(
      "head_dim", 1, kMaxHeadDim,
      defaults.head_dim > 0 ? defaults.head_dim : int64_t{config->hidden_size / config->heads}));
  if (config->head_dim % 2 != 0 || config->head_dim == 0) {
    fields.Invalid("head_dim",
                   absl::StrCat("is ", config->head_dim, "; rotary positions need an even one"));
  }
  CheckHeads(fields, "num_attention_heads", config);
  config->vocab_size = static_cast<int>(fields.Integer("vocab_size", 1, kMaxVocabulary));
  config->norm_eps = static_cast<float>(fields.Number("rms_norm_eps", 0, 1, defaults.norm_eps));
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  const bool attention_bias = defaults.attention_bias && fields.Bool("attention_bias", false);
  config->qkv_bias = defaults.qkv_bias || attention_bias;
  config->qk_norm = defaults.qk_norm;
  config->attention_out_bias = attention_bias;
  config->mlp_bias = defaults.mlp_bias && fields.Bool("mlp_bias", false);
  config->rope_theta = fields.Number("rope_theta", 1e-6, 1e30, 10000.0);
  config->max_position_embeddings =
      fields.Integer("max_position_embeddings", 1, kMaxPositions, defaults.positions);
  ReadRope(fields, defaults.rope, config);
  const std::string act = fields.String("hidden_act", std::string("silu"));
  if (act != "silu" && act != "swish") {
    fields.Unimplemented("hidden_act", absl::StrCat("is \"", act, "\"; only silu is supported"));
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

}  // namespace

void ReadLlama(JsonFields& fields, ModelConfig* config) {
  RefuseUnsupportedKeys(fields);
  RefuseSlidingWindow(fields);
  ReadFields(fields, {.attention_bias = true, .mlp_bias = true}, config);
}

void ReadQwen2(JsonFields& fields, ModelConfig* config) {
  RefuseUnsupportedKeys(fields);
  ReadFields(fields, {.positions = 32768, .qkv_bias = true}, config);
  ReadUsedSlidingWindow(fields, config);
}

void ReadQwen3(JsonFields& fields, ModelConfig* config) {
  RefuseUnsupportedKeys(fields);
  ReadFields(fields,
             {.positions = 32768,
              .kv_heads = 32,
              .head_dim = 128,
              .attention_bias = true,
              .qk_norm = true},
             config);
  ReadUsedSlidingWindow(fields, config);
}

// Phi-3's files often name a window as long as all positions or longer, which changes nothing up
// to there and would make a linear layer's state larger than any other.
void ReadPhi3(JsonFields& fields, ModelConfig* config) {
  constexpr std::string_view kRead[] = {"partial_rotary_factor"};
  RefuseUnsupportedKeys(fields, /*encoder_decoder=*/false, kRead);
  ReadFields(
      fields,
      {.positions = 4096,
       .norm_eps = 1e-5,
       .rope = {.part_key = "partial_rotary_factor", .original = 4096, .longrope_names = true}},
      config);
  config->fused_projections = true;
  if (!fields.Has("sliding_window")) return;
  const int64_t window = fields.Integer("sliding_window", 1, kMaxPositions);
  if (window < config->max_position_embeddings) ReadSlidingWindow(fields, 0, 0, config);
}

void ReadMistral(JsonFields& fields, ModelConfig* config) {
  RefuseUnsupportedKeys(fields);
  ReadFields(fields, {.positions = 131072, .kv_heads = 8}, config);
  ReadSlidingWindow(fields, 4096, 0, config);
}

}  // namespace t2r

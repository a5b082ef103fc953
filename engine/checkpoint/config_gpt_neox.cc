// config.json of GPT-NeoX (Pythia and relatives).
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"
#include "engine/model/architectures.h"

namespace t2r {
namespace {

ActivationKind ReadActivation(JsonFields& fields) {
  const std::string name = fields.String("hidden_act", std::string("gelu"));
  if (name == "gelu" || name == "gelu_python") return ActivationKind::kGelu;
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") {
    return ActivationKind::kGeluTanh;
  }
  if (name == "relu") return ActivationKind::kRelu;
  if (name == "silu" || name == "swish") return ActivationKind::kSilu;
  fields.Unimplemented("hidden_act",
                       absl::StrCat("is \"", name,
                                    "\"; supported are gelu, gelu_python, gelu_new, gelu_fast, "
                                    "gelu_pytorch_tanh, relu, silu and swish"));
  return ActivationKind::kGelu;
}

}  // namespace

void ReadGptNeox(JsonFields& fields, ModelConfig* config) {
  constexpr std::string_view kRead[] = {"rotary_pct", "use_parallel_residual"};
  RefuseUnsupportedKeys(fields, /*encoder_decoder=*/false, kRead);
  RefuseSlidingWindow(fields);
  config->architecture = &kGptNeoxArchitecture;
  config->hidden_size = static_cast<int>(fields.Integer("hidden_size", 1, kMaxWidth));
  config->intermediate_size = static_cast<int>(fields.Integer("intermediate_size", 1, kMaxInner));
  config->layers = static_cast<int>(fields.Integer("num_hidden_layers", 1, kMaxLayers));
  config->heads = static_cast<int>(fields.Integer("num_attention_heads", 1, kMaxHeads));
  config->kv_heads = config->heads;
  if (config->hidden_size % config->heads != 0) {
    fields.Invalid("num_attention_heads",
                   absl::StrCat("is ", config->heads, ", which does not divide hidden_size ",
                                config->hidden_size));
  }
  config->head_dim = config->hidden_size / config->heads;
  config->vocab_size = static_cast<int>(fields.Integer("vocab_size", 1, kMaxVocabulary));
  config->norm_eps = static_cast<float>(fields.Number("layer_norm_eps", 0, 1, 1e-5));
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  config->parallel_residual = fields.Bool("use_parallel_residual", true);
  config->qkv_bias = config->attention_out_bias = fields.Bool("attention_bias", true);
  config->mlp_bias = true;
  config->activation = ReadActivation(fields);
  config->max_position_embeddings =
      fields.Integer("max_position_embeddings", 1, kMaxPositions, 2048);
  config->rope_theta = fields.Number("rotary_emb_base", 1e-6, 1e30, 10000.0);
  ReadRope(fields, {.part_key = "rotary_pct", .part = 0.25}, config);
}

}  // namespace t2r

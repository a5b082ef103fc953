// config.json of GPT-2.
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"
#include "engine/model/architectures.h"

namespace t2r {

void ReadGpt2(JsonFields& fields, ModelConfig* config) {
  RefuseUnsupportedKeys(fields);
  RefuseSlidingWindow(fields);
  if (!fields.Bool("scale_attn_weights", true)) {
    fields.Unimplemented("scale_attn_weights", "is false; only true is supported");
  }
  if (fields.Bool("scale_attn_by_inverse_layer_idx", false)) {
    fields.Unimplemented("scale_attn_by_inverse_layer_idx", "is true; only false is supported");
  }
  config->architecture = &kGpt2Architecture;
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

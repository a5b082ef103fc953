// config.json of Marian encoder-decoders: HF's keys, and those with which other tools describe
// models that differ from opus-mt (normalize_before, add_final_layer_norm, source_append_eos, …).
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"
#include "engine/model/architectures.h"

namespace t2r {
namespace {

// HF's defaults, where a key is absent.
constexpr int64_t kLayers = 12;
constexpr int64_t kHeads = 16;
constexpr int64_t kInner = 4096;
constexpr int64_t kPositions = 1024;
constexpr int64_t kStartToken = 58100;

ActivationKind ReadActivation(JsonFields& fields) {
  const std::string name = fields.String("activation_function", std::string("gelu"));
  if (name == "swish" || name == "silu") return ActivationKind::kSilu;
  if (name == "relu") return ActivationKind::kRelu;
  if (name == "gelu") return ActivationKind::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return ActivationKind::kGeluTanh;
  fields.Unimplemented("activation_function",
                       absl::StrCat("is \"", name,
                                    "\"; supported are swish, silu, relu, gelu, gelu_new and "
                                    "gelu_pytorch_tanh"));
  return ActivationKind::kSilu;
}

int ReadHeads(JsonFields& fields, const char* key, int hidden) {
  const auto heads = static_cast<int>(fields.Integer(key, 1, kMaxHeads, kHeads));
  if (hidden % heads != 0) {
    fields.Invalid(key, absl::StrCat("is ", heads, ", which does not divide d_model ", hidden));
  }
  return heads;
}

int32_t ReadToken(JsonFields& fields, const char* key, int64_t absent, int vocab_size) {
  if (!fields.Has(key) && absent >= vocab_size) {
    fields.Invalid(key, absl::StrCat("is missing; the default of ", absent,
                                     " is outside the vocabulary of ", vocab_size));
    return 0;
  }
  return static_cast<int32_t>(fields.Integer(key, 0, vocab_size - 1, absent));
}

void Refuse(JsonFields& fields, bool learned_positions) {
  for (const char* key : {"normalize_embedding", "do_blenderbot_90_layernorm"}) {
    if (fields.Bool(key, false)) {
      fields.Unimplemented(key, "is true; only false is supported");
    }
  }
  if (!fields.Bool("is_encoder_decoder", true)) {
    fields.Unimplemented("is_encoder_decoder", "is false; a lone decoder is not supported");
  }
  if (learned_positions && fields.Integer("extra_pos_embeddings", 0, kMaxStoredPositions, 0) != 0) {
    fields.Unimplemented("extra_pos_embeddings",
                         "shifts the learned positions; only 0 is supported");
  }
  RefuseForcedStart(fields);
}

}  // namespace

void RefuseForcedStart(JsonFields& fields) {
  if (fields.Has("forced_bos_token_id")) {
    fields.Unimplemented("forced_bos_token_id",
                         "is set; remove it and send it as the request's target_prefix");
  }
}

void ReadMarian(JsonFields& fields, ModelConfig* config) {
  RefuseUnsupportedKeys(fields, /*encoder_decoder=*/true);
  RefuseSlidingWindow(fields);
  EncoderDecoderConfig both;
  config->architecture = &kMarianArchitecture;
  config->hidden_size = static_cast<int>(fields.Integer("d_model", 1, kMaxWidth));
  config->layers = static_cast<int>(fields.Integer("decoder_layers", 1, kMaxLayers, kLayers));
  both.encoder_layers = static_cast<int>(fields.Integer("encoder_layers", 1, kMaxLayers, kLayers));
  config->heads = ReadHeads(fields, "decoder_attention_heads", config->hidden_size);
  both.encoder_heads = ReadHeads(fields, "encoder_attention_heads", config->hidden_size);
  config->kv_heads = config->heads;
  config->head_dim = config->hidden_size / config->heads;
  config->intermediate_size =
      static_cast<int>(fields.Integer("decoder_ffn_dim", 1, kMaxInner, kInner));
  both.encoder_intermediate_size =
      static_cast<int>(fields.Integer("encoder_ffn_dim", 1, kMaxInner, kInner));
  both.activation = ReadActivation(fields);
  both.normalize_before = fields.Bool("normalize_before", false);
  both.final_norm = fields.Bool("add_final_layer_norm", false);
  config->norm_eps = static_cast<float>(fields.Number("layer_norm_eps", 0, 1, 1e-5));

  both.source_vocab_size = static_cast<int>(fields.Integer("vocab_size", 1, kMaxVocabulary));
  config->vocab_size = static_cast<int>(
      fields.Integer("decoder_vocab_size", 1, kMaxVocabulary, int64_t{both.source_vocab_size}));
  both.share_embeddings = fields.Bool("share_encoder_decoder_embeddings", true);
  if (both.share_embeddings && config->vocab_size != both.source_vocab_size) {
    fields.Invalid(
        "decoder_vocab_size",
        absl::StrCat("is ", config->vocab_size, " but vocab_size is ", both.source_vocab_size,
                     "; share_encoder_decoder_embeddings needs them equal"));
  }
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", true);
  both.scale_embedding = fields.Bool("scale_embedding", false);
  both.learned_positions = !fields.Bool("static_position_embeddings", true);
  config->max_position_embeddings =
      fields.Integer("max_position_embeddings", 1, kMaxStoredPositions, kPositions);
  both.max_source_positions = config->max_position_embeddings;
  both.source_append_eos = fields.Bool("source_append_eos", true);
  both.decoder_start_token_id =
      ReadToken(fields, "decoder_start_token_id", kStartToken, config->vocab_size);
  both.pad_token_id = ReadToken(fields, "pad_token_id", kStartToken, config->vocab_size);
  config->qkv_bias = true;
  config->attention_out_bias = true;
  config->mlp_bias = true;
  config->encoder_decoder = both;
  Refuse(fields, both.learned_positions);
}

}  // namespace t2r

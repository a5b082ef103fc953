#include "convert/pretrain_config.h"

#include <nlohmann/json.hpp>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using Json = nlohmann::ordered_json;

Json Llama(const PretrainFlags& flags) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", flags.hidden},
          {"intermediate_size", flags.intermediate},
          {"num_hidden_layers", flags.layers},
          {"num_attention_heads", flags.heads},
          {"num_key_value_heads", flags.kv_heads > 0 ? flags.kv_heads : flags.heads},
          {"head_dim", flags.hidden / flags.heads},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"max_position_embeddings", flags.positions},
          {"attention_bias", false},
          {"mlp_bias", false}};
}

Json Gpt2(const PretrainFlags& flags) {
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"n_embd", flags.hidden},
          {"n_inner", flags.intermediate},
          {"n_layer", flags.layers},
          {"n_head", flags.heads},
          {"n_positions", flags.positions},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", 1e-5}};
}

// Norms before the halves: such models train without care; the decoder starts with the padding
// token, as opus-mt's does.
Json Marian(const PretrainFlags& flags, int source_vocab_size) {
  const int encoder_layers = flags.encoder_layers > 0 ? flags.encoder_layers : flags.layers;
  return {{"architectures", {"MarianMTModel"}},
          {"model_type", "marian"},
          {"d_model", flags.hidden},
          {"encoder_layers", encoder_layers},
          {"decoder_layers", flags.layers},
          {"encoder_attention_heads", flags.heads},
          {"decoder_attention_heads", flags.heads},
          {"encoder_ffn_dim", flags.intermediate},
          {"decoder_ffn_dim", flags.intermediate},
          {"activation_function", "swish"},
          {"normalize_before", true},
          {"add_final_layer_norm", true},
          {"scale_embedding", true},
          {"static_position_embeddings", true},
          {"layer_norm_eps", 1e-5},
          {"max_position_embeddings", flags.positions},
          {"vocab_size", source_vocab_size},
          {"share_encoder_decoder_embeddings", false}};
}

}  // namespace

std::string PretrainConfigJson(const PretrainFlags& flags, int vocab_size, int source_vocab_size,
                               bool has_tokenizer) {
  if (flags.heads < 1 || flags.hidden % flags.heads != 0) {
    throw ConvertError("--hidden must be a multiple of --heads");
  }
  const bool grouped = flags.kv_heads > 0 && flags.kv_heads != flags.heads;
  if (flags.architecture != "llama" && grouped) {
    throw ConvertError(flags.architecture + " has no grouped heads: omit --kv-heads");
  }
  const bool marian = flags.architecture == "marian";
  Json json;
  if (flags.architecture == "llama") {
    json = Llama(flags);
  } else if (flags.architecture == "gpt2") {
    json = Gpt2(flags);
  } else if (marian) {
    json = Marian(flags, source_vocab_size);
  } else {
    throw ConvertError("--architecture must be llama, gpt2 or marian, not '" + flags.architecture +
                       "'");
  }
  json[marian ? "decoder_vocab_size" : "vocab_size"] = vocab_size;
  json["tie_word_embeddings"] = !flags.untied;
  if (marian) {
    json["decoder_start_token_id"] = flags.start_token;
    json["pad_token_id"] = flags.start_token;
    json["eos_token_id"] = flags.eos_token;
    json["source_append_eos"] = flags.source_eos;
  } else if (has_tokenizer) {
    json["bos_token_id"] = 1;
    json["eos_token_id"] = 2;
  }
  json["torch_dtype"] = flags.output.dtype;
  return json.dump(2) + "\n";
}

}  // namespace t2r::convert

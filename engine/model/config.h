// What config.json says, checked, with every default filled in. Plain data: no JSON, no abseil.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/ops/activation.h"
#include "engine/ops/dtype.h"
#include "engine/ops/linear_attention.h"

namespace t2r {

struct Architecture;  // architectures.h
extern const Architecture kLlamaArchitecture;

enum class LayerType : uint8_t { kLinearAttention, kFullAttention };

// As config.json's layer_types spell them.
constexpr const char* NameOf(LayerType type) {
  switch (type) {
    case LayerType::kLinearAttention:
      return "linear_attention";
    case LayerType::kFullAttention:
      return "full_attention";
  }
  return "";
}

// Sizes of one linear layer (engine/ops/windowed_attention.h).
struct LinearSizes {
  int features = 0;  // M
  int window = 0;    // w; 0: none
  int sinks = 0;     // n
  int fold = 1;      // C

  friend bool operator==(const LinearSizes&, const LinearSizes&) = default;
};

struct LinearAttentionConfig {
  FeatureMapKind feature_map = FeatureMapKind::kT2r;
  int feature_size = 0;  // k; where layers differ, the largest
  // Of causal attention; where layers differ, the largest.
  int window = 0, sinks = 0, fold = 1;
  std::vector<LinearSizes> layers = {};                 // where layers differ: of each, else empty
  bool rope_features = true;                            // the map sees q and k after their rotation
  std::optional<int64_t> sink_position = std::nullopt;  // P
  Normalizer normalizer = Normalizer::kClamp;
  float eps = 1e-2F;
  float query_scale = 1.0F;

  // Of a decoder layer's causal attention, or of its cross attention, which has no window.
  LinearSizes sizes(int layer, bool cross = false) const {
    LinearSizes of{feature_size, window, sinks, fold};
    if (!layers.empty()) of = layers[static_cast<size_t>(layer)];
    return cross ? LinearSizes{of.features, 0, 0, 1} : of;
  }
};

// How rope_scaling changes the frequencies of rotary positions (engine/model/rope.h).
struct RopeScaling {
  enum class Kind : uint8_t { kLinear, kLlama3, kYarn, kDynamic, kLongRope } kind = Kind::kLlama3;
  double factor = 1.0;  // not of longrope
  double original_max_position_embeddings = 8192;
  double low_freq_factor = 1.0;  // llama3
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;  // yarn
  double beta_slow = 1.0;
  bool truncate = true;
  double length = 0;              // dynamic: of the texts that the frequencies are for
  std::vector<double> factors;    // longrope [rotary_dim/2]: what each frequency is divided by
  double attention_factor = 1.0;  // yarn and longrope: of turned vectors
};

// What an encoder-decoder (Marian) has beside its decoder, which ModelConfig describes.
struct EncoderDecoderConfig {
  int encoder_layers = 0;
  int encoder_heads = 0;
  int encoder_intermediate_size = 0;
  int source_vocab_size = 0;
  ActivationKind activation = ActivationKind::kSilu;
  bool normalize_before = false;   // layer norm before each half, not after it
  bool final_norm = false;         // and once more after the last layer
  bool scale_embedding = false;    // embeddings times √hidden
  bool learned_positions = false;  // else sinusoidal, stored or computed
  bool share_embeddings = true;    // one table for source and target
  bool source_append_eos = true;   // an end-of-sequence token closes the source
  int64_t max_source_positions = 0;
  int32_t decoder_start_token_id = 0;
  int32_t pad_token_id = 0;
  std::vector<LayerType> cross_layer_types;  // [layers]
};

struct ModelConfig {
  const Architecture* architecture = &kLlamaArchitecture;  // never null
  int hidden_size = 0;
  int intermediate_size = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;  // G
  int head_dim = 0;  // d
  int vocab_size = 0;
  float norm_eps = 1e-5F;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // Llama: attention_bias or a Qwen2-like model
  bool attention_out_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;            // RMSNorm of each head of q and k, before RoPE
  bool fused_projections = false;  // Llama: one tensor for q, k and v, one for gate and up
  bool parallel_residual = false;  // GPT-NeoX: the feed-forward reads what the attention reads
  ActivationKind activation = ActivationKind::kSilu;  // GPT-NeoX: of the feed-forward
  // The first values of a head, which rotary positions turn; 0: positions are stored.
  int rotary_dim = 0;
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling;
  int64_t max_position_embeddings = 0;
  std::vector<LayerType> layer_types;                     // [layers]
  std::optional<LinearAttentionConfig> linear_attention;  // present if any layer is linear
  std::optional<EncoderDecoderConfig> encoder_decoder;    // present if there is an encoder

  // Never generated: the single ids of an encoder-decoder's bad_words_ids, of both files.
  std::vector<int32_t> suppressed_token_ids;
  std::vector<int32_t> eos_token_ids;  // of config.json and generation_config.json, no duplicates
  std::optional<int32_t> bos_token_id;
  // generation_config.json's; 0 where do_sample is false, its default for encoder-decoders.
  std::optional<float> default_temperature;
  // generation_config.json's too: what a request leaves unset.
  struct GenerationDefaults {
    std::optional<int> top_k;  // 0: off
    std::optional<float> top_p, min_p, repetition_penalty;
    std::optional<int64_t> max_new_tokens;
  } defaults;
  std::vector<std::string> warnings;   // what the files ask for and does not count, a line each
  DType file_dtype = DType::kFloat32;  // torch_dtype (or dtype); what --dtype auto means

  int linear_layers() const;  // causal attention
  // Of a layer's causal attention, or of its attention over an encoder's outputs.
  bool is_linear(int layer, bool cross) const {
    const std::vector<LayerType>& types =
        cross ? encoder_decoder.value().cross_layer_types : layer_types;
    return types[static_cast<size_t>(layer)] == LayerType::kLinearAttention;
  }
  int linear_cross_layers() const;
  int full_cross_layers() const;
  int full_layers() const { return layers - linear_layers(); }
  // A hard bound on positions: stored ones, as GPT-2 and Marian have them. nullopt: none.
  std::optional<int64_t> position_limit() const;
};

}  // namespace t2r

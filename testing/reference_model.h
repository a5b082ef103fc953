// An independent float64 model for tests: naive, quadratic, over the whole history, sharing no code
// with the engine.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace t2r::testing {

// Describes a small model; Config() and the tensors' names follow from it.
struct ModelSpec {
  bool gpt2 = false;
  bool neox = false;  // GPT-NeoX: heads · head_dim = hidden, groups = heads
  bool phi3 = false;  // Llama with fused projections
  int hidden = 32;
  int inner = 48;
  int layers = 3;
  int heads = 4;
  int groups = 2;    // key/value heads; heads for GPT-2
  int head_dim = 8;  // hidden / heads for GPT-2
  int vocab = 61;
  int positions = 256;
  std::vector<bool> linear;  // a layer each; empty: none
  std::string map = "t2r";   // t2r, elu, rfa, hedgehog, codebook, none
  int features = 16;
  int window = 0;  // 0: none
  int sinks = 0;
  int fold = 1;
  // A layer each where they differ; else empty.
  std::vector<int> window_list, sink_list, fold_list, feature_list;
  bool rope_features = true;
  bool decay = false;
  int sink_position = -1;  // < 0: none
  int sliding_window = 0;  // > 0: Mistral's, or where qwen2: from first_sliding on
  int first_sliding = 0;
  std::string normalizer = "clamp";
  double eps = 1e-2;
  double query_scale = 0.35;
  bool attention_bias = false;  // Llama: q, k, v and o
  bool qwen2 = false;           // q, k, v biases only
  bool qwen3 = false;           // RMSNorm over each head of q and k
  bool mlp_bias = false;
  bool tied = false;
  double theta = 10000.0;
  double llama3_factor = 0;  // > 0: llama3 rope scaling with an original context of 32
  double linear_factor = 0;  // > 0: linear rope scaling
  // yarn, dynamic or longrope, by a factor of 4 over an original context of positions / 4 (dynamic:
  // over all positions); longrope's short and long factors of frequency i: 1 + i/8 and 2 + i/2.
  std::string rope_type;
  int rope_length = 0;              // > 0: config.json's rope_length
  double rotary = 1.0;              // the part of a head that turns (GPT-NeoX, Phi-3)
  bool parallel = true;             // GPT-NeoX: use_parallel_residual
  std::string activation = "gelu";  // GPT-NeoX: gelu, gelu_new, relu or silu
  double norm_eps = 1e-5;
  bool prefix = true;  // tensors named transformer.* or model.*

  bool layer_norms() const { return gpt2 || neox; }
  // Names of tensors, or what they begin with.
  const char* root() const { return gpt2 ? "transformer." : neox ? "gpt_neox." : "model."; }
  const char* layer_list() const { return gpt2 ? "h." : "layers."; }
  const char* table() const {
    return gpt2 ? "wte.weight" : neox ? "embed_in.weight" : "embed_tokens.weight";
  }
  const char* attention() const { return gpt2 ? "attn." : neox ? "attention." : "self_attn."; }
  const char* first_norm() const { return gpt2 ? "ln_1" : "input_layernorm"; }
  const char* second_norm() const { return gpt2 ? "ln_2" : "post_attention_layernorm"; }
  const char* last_norm() const { return gpt2 ? "ln_f" : neox ? "final_layer_norm" : "norm"; }
  const char* head() const { return neox ? "embed_out.weight" : "lm_head.weight"; }
  bool is_linear(int layer) const { return !linear.empty() && linear[layer]; }
  int windows(int layer) const { return window_list.empty() ? window : window_list[layer]; }
  int sink_count(int layer) const { return sink_list.empty() ? sinks : sink_list[layer]; }
  int folds(int layer) const { return fold_list.empty() ? fold : fold_list[layer]; }
  int feature_count(int layer) const {
    return feature_list.empty() ? features : feature_list[layer];
  }
};

struct NamedTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using Tensors = std::map<std::string, NamedTensor>;

// The text of config.json.
std::string ConfigOf(const ModelSpec& spec);

// Random weights of a size that keeps activations near 1; deterministic in the seed.
Tensors RandomWeights(const ModelSpec& spec, uint64_t seed);

// Logits [ids][vocab] of every position. Full layers compute softmax attention over all keys;
// linear ones Σ_j φ(q_i)·φ(k_j) v_j over its normaliser, never a recurrence.
std::vector<std::vector<double>> ReferenceLogits(const ModelSpec& spec, const Tensors& weights,
                                                 const std::vector<int32_t>& ids);

// log softmax of one position's logits.
std::vector<double> LogSoftmax(const std::vector<double>& logits);

}  // namespace t2r::testing

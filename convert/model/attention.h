// Causal attention for training: softmax, and linear with a feature map in its chunked form.
//
// Shapes: B sequences of T tokens, G key/value heads, R query heads a group, d values a head.
#pragma once

#include <torch/types.h>

#include "engine/model/config.h"

namespace t2r::convert {

// The feature map's tensors of one layer (engine/ops/linear_attention.h); undefined where the map
// has none. For rfa, weight is the projection.
// For the codebook, weight and bias are the keys'.
struct FeatureMapTensors {
  torch::Tensor weight, bias;
  torch::Tensor query_weight, query_bias;  // codebook: [G, M, d] and [H, M]
  torch::Tensor far_bias;                  // [H]: other maps beside a window
  torch::Tensor log_decay;                 // [G]; undefined: none
};

// What one attention of a decoder reads: q [B, T, G, R, d], k and v [B, T, G, d].
struct AttentionInput {
  torch::Tensor q, k, v;           // q and k rotated, where the model rotates them
  torch::Tensor plain_q, plain_k;  // and before that
  torch::Tensor sink_q;  // rotated as the sinks see it: at most at sink_position; undefined: q
};

// φ(x): x [G, N, d] to [G, N, k]; of the codebook, what keys are assigned to. The query's scale is
// not applied here.
torch::Tensor ApplyFeatureMap(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                              const torch::Tensor& x);

// ρ_g to the power of `age` [1, …]: [G, …], for log_decay [G].
torch::Tensor DecayFactors(const torch::Tensor& log_decay, const torch::Tensor& age);

// Linear attention of q [B, T, G, R, d], k and v [B, T, G, d] from empty state to [B, T, G·R·d]:
// the recurrence on the CPU, the chunked form elsewhere and with a decay.
torch::Tensor LinearAttention(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                              const torch::Tensor& q, const torch::Tensor& k,
                              const torch::Tensor& v);

// By the recurrence, token by token (recurrent_kernel.h). CPU only; without a decay.
torch::Tensor RecurrentLinearAttention(const LinearAttentionConfig& config,
                                       const FeatureMapTensors& map, const torch::Tensor& q,
                                       const torch::Tensor& k, const torch::Tensor& v);

// In chunks of C: within a chunk the masked product of features is formed, across chunks the states
// S and z are carried (docs/model-format.md): the same sums in another order. `chunk` 0 chooses C
// from T.
torch::Tensor ChunkedLinearAttention(const LinearAttentionConfig& config,
                                     const FeatureMapTensors& map, const torch::Tensor& q,
                                     const torch::Tensor& k, const torch::Tensor& v,
                                     int64_t chunk = 0);

// Softmax attention of the same arguments, scaled by d^-½.
torch::Tensor SoftmaxAttention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v);

}  // namespace t2r::convert

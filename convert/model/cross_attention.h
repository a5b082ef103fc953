// Attention over a whole other sequence: of a decoder over a source, and of an encoder over itself.
//
// Shapes: B sequences, T queries each over S keys, G key/value heads, R query heads a group, d
// values a head. counted [B, S] (float32) is 1 where a key is there and 0 where it is padding.
#pragma once

#include <torch/types.h>

#include "convert/model/attention.h"

namespace t2r::convert {

// Softmax attention of q [B, T, G, R, d] over k and v [B, S, G, d], scaled by d^-½, to
// [B, T, G·R·d]. Each sequence has at least one key.
torch::Tensor SoftmaxAttentionOver(const torch::Tensor& q, const torch::Tensor& k,
                                   const torch::Tensor& v, const torch::Tensor& counted);

// Linear attention of the same arguments: the keys' and values' sums S and z are taken once, and
// every query reads them.
torch::Tensor LinearAttentionOver(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                                  const torch::Tensor& q, const torch::Tensor& k,
                                  const torch::Tensor& v, const torch::Tensor& counted);

}  // namespace t2r::convert

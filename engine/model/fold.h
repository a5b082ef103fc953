// Folding a feature map's projection into the query and key projections (docs/model-format.md,
// "Folding"; Kasai et al. 2021, section 3.3).
#pragma once

#include <span>
#include <vector>

#include "engine/model/attention.h"
#include "engine/model/config.h"

namespace t2r {

// Output rows: heads · r of the queries' pre-activations, then heads · r of the keys', then the
// heads · d values, r = map.rows.
struct FoldedProjections {
  std::vector<float> weight;  // [rows, hidden]
  std::vector<float> bias;    // [rows]
};

// qkv_weight [hidden, 3 · heads · d] and qkv_bias [3 · heads · d] as GPT-2 stores them, one feature
// map a head. A head's query rows become query_scale · W · W_q with bias query_scale · W · b_q + b,
// its key rows W · W_k with W · b_k + b. Products are summed in float64 and rounded once.
FoldedProjections FoldFeatureMap(std::span<const float> qkv_weight, std::span<const float> qkv_bias,
                                 const FeatureMapWeights& map, const ModelConfig& config);

}  // namespace t2r

// Folding a feature map's projection into the query and key projections (docs/model-format.md,
// "Folding"; Kasai et al. 2021, section 3.3).
#pragma once

#include <span>
#include <vector>

#include "engine/model/attention.h"
#include "engine/model/config.h"

namespace t2r {

// A projection to queries or keys that gives the map's pre-activations: heads · r output rows,
// r = map.rows.
struct FoldedProjection {
  std::vector<float> weight;  // [heads · r, hidden]
  std::vector<float> bias;    // [heads · r]
};

// weight [heads · d, hidden] and bias [heads · d] of a projection, one feature map a head. A head's
// rows become scale · W · weight with bias scale · W · bias + b: scale is query_scale for queries
// and 1 for keys. Products are summed in float64 and rounded once.
FoldedProjection FoldFeatureMap(std::span<const float> weight, std::span<const float> bias,
                                const FeatureMapWeights& map, float scale,
                                const ModelConfig& config);

}  // namespace t2r

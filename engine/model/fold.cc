#include "engine/model/fold.h"

#include <algorithm>

namespace t2r {

FoldedProjection FoldFeatureMap(std::span<const float> weight, std::span<const float> bias,
                                const FeatureMapWeights& map, float scale,
                                const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t d = config.head_dim;
  const int64_t rows = int64_t{config.heads} * map.rows;
  FoldedProjection folded;
  folded.weight.resize(static_cast<size_t>(rows * hidden));
  folded.bias.resize(static_cast<size_t>(rows));
  std::vector<double> sums(static_cast<size_t>(hidden));
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = row / map.rows * d;  // the head's first projected row
    const float* w = map.weight.data() + row * d;
    double sum = 0;
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t j = 0; j < d; ++j) {
      const float* source = weight.data() + (first + j) * hidden;
      const double factor = static_cast<double>(scale) * static_cast<double>(w[j]);
      for (int64_t i = 0; i < hidden; ++i) sums[i] += factor * static_cast<double>(source[i]);
      sum += factor * static_cast<double>(bias[first + j]);
    }
    if (!map.bias.empty()) sum += static_cast<double>(map.bias[row]);
    for (int64_t i = 0; i < hidden; ++i) {
      folded.weight[row * hidden + i] = static_cast<float>(sums[i]);
    }
    folded.bias[row] = static_cast<float>(sum);
  }
  return folded;
}

}  // namespace t2r

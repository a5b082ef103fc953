#include "engine/model/fold.h"

#include <algorithm>

namespace t2r {

FoldedProjections FoldFeatureMap(std::span<const float> qkv_weight, std::span<const float> qkv_bias,
                                 const FeatureMapWeights& map, const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.heads;
  const int64_t d = config.head_dim;
  const int64_t r = map.rows;
  const int64_t width = heads * d;
  const int64_t rows = 2 * heads * r + width;
  FoldedProjections folded;
  folded.weight.resize(static_cast<size_t>(rows * hidden));
  folded.bias.resize(static_cast<size_t>(rows));

  // Each projection's columns as rows, so that the sums below run over contiguous memory.
  std::vector<float> rows_of(static_cast<size_t>(3 * width * hidden));
  for (int64_t i = 0; i < hidden; ++i) {
    for (int64_t j = 0; j < 3 * width; ++j) rows_of[j * hidden + i] = qkv_weight[i * 3 * width + j];
  }
  std::vector<double> sums(static_cast<size_t>(hidden));
  for (int64_t part = 0; part < 2; ++part) {
    const double scale = part == 0 ? static_cast<double>(config.linear_attention->query_scale) : 1;
    for (int64_t row = 0; row < heads * r; ++row) {
      const int64_t first = part * width + row / r * d;  // the head's first projected row
      const float* w = map.weight.data() + row * d;
      double bias = 0;
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t j = 0; j < d; ++j) {
        const float* source = rows_of.data() + (first + j) * hidden;
        const double factor = scale * static_cast<double>(w[j]);
        for (int64_t i = 0; i < hidden; ++i) sums[i] += factor * static_cast<double>(source[i]);
        bias += factor * static_cast<double>(qkv_bias[first + j]);
      }
      if (!map.bias.empty()) bias += static_cast<double>(map.bias[row]);
      const int64_t to = part * heads * r + row;
      for (int64_t i = 0; i < hidden; ++i) {
        folded.weight[to * hidden + i] = static_cast<float>(sums[i]);
      }
      folded.bias[to] = static_cast<float>(bias);
    }
  }
  std::copy(rows_of.begin() + 2 * width * hidden, rows_of.end(),
            folded.weight.begin() + 2 * heads * r * hidden);
  std::copy(qkv_bias.begin() + 2 * width, qkv_bias.end(), folded.bias.begin() + 2 * heads * r);
  return folded;
}

}  // namespace t2r

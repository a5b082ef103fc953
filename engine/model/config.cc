#include "engine/model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace t2r {

namespace {

int Count(const std::vector<LayerType>& types, LayerType wanted) {
  return static_cast<int>(std::count(types.begin(), types.end(), wanted));
}

}  // namespace

int ModelConfig::linear_layers() const { return Count(layer_types, LayerType::kLinearAttention); }

int ModelConfig::linear_cross_layers() const {
  if (!encoder_decoder) return 0;
  return Count(encoder_decoder->cross_layer_types, LayerType::kLinearAttention);
}

int ModelConfig::full_cross_layers() const {
  if (!encoder_decoder) return 0;
  return Count(encoder_decoder->cross_layer_types, LayerType::kFullAttention);
}

std::optional<int64_t> ModelConfig::position_limit() const {
  if (rotary_dim == 0) return max_position_embeddings;
  return std::nullopt;
}

std::vector<double> RopeInverseFrequencies(const ModelConfig& config) {
  const int pairs = config.rotary_dim / 2;
  std::vector<double> frequencies(pairs);
  for (int i = 0; i < pairs; ++i) {
    frequencies[i] = std::pow(config.rope_theta, -2.0 * i / config.rotary_dim);
  }
  if (!config.rope_scaling.has_value()) return frequencies;
  const RopeScaling& scaling = *config.rope_scaling;
  for (double& frequency : frequencies) {
    if (scaling.kind == RopeScaling::Kind::kLinear) {
      frequency /= scaling.factor;
      continue;
    }
    // Turns the pair makes over the original context: few are slowed by the factor, many are kept,
    // and between the two bounds the frequencies are blended (Llama 3.1's rule).
    const double turns =
        scaling.original_max_position_embeddings * frequency / (2.0 * std::numbers::pi);
    if (turns < scaling.low_freq_factor) {
      frequency /= scaling.factor;
    } else if (turns <= scaling.high_freq_factor) {
      const double keep =
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
      frequency = (1.0 - keep) * frequency / scaling.factor + keep * frequency;
    }
  }
  return frequencies;
}

}  // namespace t2r

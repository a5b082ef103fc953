#include "engine/model/config.h"

#include <algorithm>

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

}  // namespace t2r

#include "engine/model/model.h"

#include "engine/model/architectures.h"

namespace t2r {

std::unique_ptr<Model> MakeModel(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options) {
  return config.architecture->make(config, weights, backend, options);
}

void Model::Encode(const Batch& /*sources*/, const Caches& /*caches*/) {
  throw ModelError("the model has no encoder");
}

StateShape StateShapeOf(const ModelConfig& config, DType window_dtype) {
  StateShape shape{config.kv_heads, config.head_dim, window_dtype, {}};
  const auto add = [&](const std::vector<LayerType>& types, bool cross) {
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] != LayerType::kLinearAttention) continue;
      const LinearSizes sizes = config.linear_attention->sizes(static_cast<int>(i), cross);
      const int64_t ring = sizes.window == 0 ? 0 : int64_t{sizes.window} + sizes.fold - 1;
      shape.layers.push_back({sizes.features, ring + sizes.sinks});
    }
  };
  add(config.layer_types, false);
  if (config.encoder_decoder) add(config.encoder_decoder->cross_layer_types, true);
  return shape;
}

KvShape KvShapeOf(const ModelConfig& config, DType dtype) {
  const int layers = config.full_layers();
  if (layers == 0) return {};
  return {layers, config.kv_heads, config.head_dim, dtype};
}

KvShape SourceKvShapeOf(const ModelConfig& config, DType dtype) {
  const int layers = config.full_cross_layers();
  if (layers == 0) return {};
  return {layers, config.kv_heads, config.head_dim, dtype};
}

}  // namespace t2r

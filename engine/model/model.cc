#include "engine/model/model.h"

#include "engine/model/architectures.h"

namespace t2r {

std::unique_ptr<Model> MakeModel(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options) {
  switch (config.architecture) {
    case Architecture::kLlama:
      return MakeLlama(config, weights, backend, options);
    case Architecture::kGpt2:
      return MakeGpt2(config, weights, backend, options);
    case Architecture::kMarian:
      return MakeMarian(config, weights, backend, options);
  }
  throw ModelError("unknown architecture");
}

void Model::Encode(const Batch& /*sources*/, const Caches& /*caches*/) {
  throw ModelError("the model has no encoder");
}

StateShape StateShapeOf(const ModelConfig& config) {
  StateShape shape;
  const int layers = config.linear_layers() + config.linear_cross_layers();
  if (layers == 0) return shape;
  shape.groups = config.kv_heads;
  shape.head_dim = config.head_dim;
  shape.layers.assign(layers, {config.linear_attention->feature_size, 0});
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

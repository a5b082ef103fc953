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
  }
  throw ModelError("unknown architecture");
}

StateShape StateShapeOf(const ModelConfig& config) {
  const int layers = config.linear_layers();
  if (layers == 0) return {};
  return {layers, config.kv_heads, config.linear_attention->feature_size, config.head_dim};
}

KvShape KvShapeOf(const ModelConfig& config) {
  const int layers = config.full_layers();
  if (layers == 0) return {};
  return {layers, config.kv_heads, config.head_dim};
}

}  // namespace t2r

#include "engine/model/tensors.h"

#include <algorithm>

#include "engine/model/architectures.h"

namespace t2r {

std::vector<TensorSpec> TensorsOf(const ModelConfig& config) {
  return config.architecture->tensors(config);
}

const HostTensor* FindTensor(const WeightSource& source, const TensorSpec& tensor) {
  const HostTensor* found = source.Find(tensor.name);
  for (size_t i = 0; found == nullptr && i < tensor.aliases.size(); ++i) {
    found = source.Find(tensor.aliases[i]);
  }
  return found;
}

const std::string& HeadOf(const std::vector<TensorSpec>& tensors) {
  for (const TensorRole role : {TensorRole::kHead, TensorRole::kEmbedding}) {
    const auto found =
        std::find_if(tensors.begin(), tensors.end(),
                     [role](const TensorSpec& tensor) { return tensor.role == role; });
    if (found != tensors.end()) return found->name;
  }
  throw ModelError("the architecture lists no embedding");
}

std::string AttentionPrefix(const ModelConfig& config, int layer, bool cross) {
  return config.architecture->attention_prefix(layer, cross);
}

TensorSpec& TensorList::Add(const std::string& name, TensorRole role, std::vector<int64_t> shape) {
  TensorSpec& tensor = tensors_.emplace_back();
  tensor.name = name;
  tensor.role = role;
  tensor.shape = std::move(shape);
  if (!optional_prefix_.empty() && name.starts_with(optional_prefix_)) {
    tensor.aliases.push_back(name.substr(optional_prefix_.size()));
  }
  return tensor;
}

void TensorList::Projection(const std::string& name, int64_t outputs, int64_t inputs, bool bias,
                            bool ends_residual) {
  Add(name + ".weight", TensorRole::kProjection, {outputs, inputs}).ends_residual = ends_residual;
  if (bias) Add(name + ".bias", TensorRole::kBias, {outputs});
}

void TensorList::Conv1d(const std::string& name, int64_t inputs, int64_t outputs,
                        bool ends_residual) {
  TensorSpec& weight = Add(name + ".weight", TensorRole::kProjection, {inputs, outputs});
  weight.transposed = true;
  weight.ends_residual = ends_residual;
  Add(name + ".bias", TensorRole::kBias, {outputs});
}

void TensorList::Norm(const std::string& name, int64_t size, bool bias) {
  Add(name + ".weight", TensorRole::kNormWeight, {size});
  if (bias) Add(name + ".bias", TensorRole::kBias, {size});
}

void TensorList::FeatureMap(const std::string& attention, int layer, bool cross) {
  if (!config_.is_linear(layer, cross)) return;
  const std::string map = attention + "feature_map.";
  const LinearAttentionConfig& linear = config_.linear_attention.value();
  const LinearSizes sizes = linear.sizes(layer, cross);
  const int64_t groups = config_.kv_heads;
  const int64_t d = config_.head_dim;
  const int64_t k = sizes.features;
  const auto add = [&](const char* name, std::vector<int64_t> shape) -> TensorSpec& {
    return Add(map + name, TensorRole::kFeatureMap, std::move(shape));
  };
  switch (linear.feature_map) {
    case FeatureMapKind::kT2r:
      add("weight", {groups, k, d});
      add("bias", {groups, k});
      break;
    case FeatureMapKind::kElu:
      break;
    case FeatureMapKind::kRfa:
      add("projection", {groups, k / 2, d});
      break;
    case FeatureMapKind::kHedgehog:
      add("weight", {groups, k / 2, d});
      break;
    case FeatureMapKind::kCodebook:
      add("key_weight", {groups, k, d});
      add("key_bias", {groups, k});
      add("query_weight", {groups, k, d});
      add("query_bias", {config_.heads, k});
      break;
    case FeatureMapKind::kNone:
      return;
  }
  if (sizes.window > 0 && linear.feature_map != FeatureMapKind::kCodebook) {
    add("far_bias", {config_.heads});
  }
  add("log_decay", {groups}).optional = true;
}

void TensorList::Head() {
  if (!config_.tie_word_embeddings) Table("lm_head.weight", TensorRole::kHead, config_.vocab_size);
}

}  // namespace t2r

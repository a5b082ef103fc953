#include "engine/model/attention.h"

#include <cmath>

namespace t2r {
namespace {

FeatureMap MapOf(const LinearAttentionConfig& linear) {
  FeatureMap map;
  map.kind = linear.feature_map;
  map.features = linear.feature_size;
  map.query_scale = linear.query_scale;
  return map;
}

}  // namespace

FeatureMapWeights ReadFeatureMap(const WeightLoader& loader, const std::string& prefix,
                                 const ModelConfig& config) {
  const LinearAttentionConfig& linear = *config.linear_attention;
  FeatureMapWeights map;
  map.rows = MapOf(linear).projected_features();
  const std::string name = prefix + "feature_map.";
  const std::vector<int64_t> shape = {config.kv_heads, map.rows, config.head_dim};
  switch (linear.feature_map) {
    case FeatureMapKind::kT2r:
      map.weight = loader.Floats(name + "weight", shape);
      map.bias = loader.Floats(name + "bias", {config.kv_heads, map.rows});
      break;
    case FeatureMapKind::kElu:
      break;
    case FeatureMapKind::kRfa:
      map.weight = loader.Floats(name + "projection", shape);
      break;
    case FeatureMapKind::kHedgehog:
      map.weight = loader.Floats(name + "weight", shape);
      break;
  }
  return map;
}

bool ShouldFold(const ModelConfig& config) {
  const LinearAttentionConfig& linear = *config.linear_attention;
  if (linear.feature_map != FeatureMapKind::kT2r &&
      linear.feature_map != FeatureMapKind::kHedgehog) {
    return false;
  }
  const int64_t rows = MapOf(linear).projected_features();
  const int64_t hidden = config.hidden_size;
  return rows * hidden < config.head_dim * (hidden + rows);
}

Attention::Attention(const ModelConfig& config, int index)
    : index_(index),
      heads_(config.heads),
      groups_(config.kv_heads),
      head_dim_(config.head_dim),
      query_width_(config.head_dim) {}

Attention Attention::Full(const ModelConfig& config, int index) { return {config, index}; }

Attention Attention::Linear(const ModelConfig& config, int index, const FeatureMapWeights& map,
                            bool folded, WeightLoader& loader) {
  Attention attention(config, index);
  attention.linear_ = true;
  attention.map_ = MapOf(*config.linear_attention);
  attention.map_.folded = folded;
  attention.normalizer_ = config.linear_attention->normalizer;
  attention.eps_ = config.linear_attention->eps;
  if (folded) {
    attention.query_width_ = map.rows;
    return attention;
  }
  if (!map.weight.empty()) {
    attention.weight_ = loader.LoadVector(map.weight);
    attention.map_.weight = attention.weight_.f32();
  }
  if (!map.bias.empty()) {
    attention.bias_ = loader.LoadVector(map.bias);
    attention.map_.bias = attention.bias_.f32();
  }
  return attention;
}

void Attention::Run(Backend& backend, const Batch& batch, const Caches& caches, Tensor qkv,
                    Tensor out) const {
  const Tensor q = qkv.Columns(0, query_columns());
  const Tensor k = qkv.Columns(query_columns(), key_columns());
  const Tensor v = qkv.Columns(query_columns() + key_columns(), value_columns());
  if (linear_) {
    LinearAttentionArgs args;
    args.heads = heads_;
    args.groups = groups_;
    args.head_dim = head_dim_;
    args.map = map_;
    args.normalizer = normalizer_;
    args.eps = eps_;
    args.q = q;
    args.k = k;
    args.v = v;
    args.out = out;
    args.state = caches.states.layer(index_);
    args.slot_stride = caches.states.stride();
    backend.LinearAttention(batch, args);
    return;
  }
  FullAttentionArgs args;
  args.heads = heads_;
  args.groups = groups_;
  args.head_dim = head_dim_;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
  args.q = q;
  args.k = k;
  args.v = v;
  args.out = out;
  args.pages = caches.kv.layer(index_);
  args.page_stride = caches.kv.page_stride();
  backend.FullAttention(batch, args);
}

}  // namespace t2r

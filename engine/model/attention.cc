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
    case FeatureMapKind::kCodebook:
    case FeatureMapKind::kNone:
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

LinearAttentionArgs Attention::LinearArgs(LinearAttentionMode mode, const Caches& caches) const {
  LinearAttentionArgs args;
  args.mode = mode;
  args.heads = heads_;
  args.groups = groups_;
  args.head_dim = head_dim_;
  args.map = map_;
  args.normalizer = normalizer_;
  args.eps = eps_;
  args.state = caches.states.sums(index_);
  args.slot_stride = caches.states.stride();
  return args;
}

FullAttentionArgs Attention::FullArgs(FullAttentionMode mode, const KvCache& kv) const {
  FullAttentionArgs args;
  args.mode = mode;
  args.heads = heads_;
  args.groups = groups_;
  args.head_dim = head_dim_;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
  args.pages = kv.layer(index_);
  args.page_stride = kv.page_stride();
  return args;
}

void Attention::Run(Backend& backend, const Batch& batch, const Caches& caches, Tensor qkv,
                    Tensor out) const {
  const auto run = [&](auto args, auto op) {
    args.q = qkv.Columns(0, query_columns());
    args.k = qkv.Columns(query_columns(), key_columns());
    args.v = qkv.Columns(query_columns() + key_columns(), value_columns());
    args.out = out;
    (backend.*op)(batch, args);
  };
  if (linear_) {
    run(LinearArgs(LinearAttentionMode::kCausal, caches), &Backend::LinearAttention);
  } else {
    run(FullArgs(FullAttentionMode::kCausal, caches.kv), &Backend::FullAttention);
  }
}

void Attention::WriteCrossKv(Backend& backend, const Batch& sources, const Caches& caches,
                             Tensor kv) const {
  const auto run = [&](auto args, auto op) {
    args.k = kv.Columns(0, key_columns());
    args.v = kv.Columns(key_columns(), value_columns());
    (backend.*op)(sources, args);
  };
  if (linear_) {
    run(LinearArgs(LinearAttentionMode::kAccumulate, caches), &Backend::LinearAttention);
  } else {
    run(FullArgs(FullAttentionMode::kAppend, caches.source_kv), &Backend::FullAttention);
  }
}

void Attention::CrossAttend(Backend& backend, const Batch& batch, const Caches& caches, Tensor q,
                            Tensor out) const {
  const auto run = [&](auto args, auto op) {
    args.q = q;
    args.out = out;
    (backend.*op)(batch, args);
  };
  if (linear_) {
    run(LinearArgs(LinearAttentionMode::kRead, caches), &Backend::LinearAttention);
  } else {
    run(FullArgs(FullAttentionMode::kCross, caches.source_kv), &Backend::FullAttention);
  }
}

}  // namespace t2r

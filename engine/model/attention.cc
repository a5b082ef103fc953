#include "engine/model/attention.h"

#include <cmath>
#include <span>
#include <string>

#include "engine/model/rope.h"

namespace t2r {
namespace {

FeatureMap MapOf(const LinearAttentionConfig& linear, const LinearSizes& sizes) {
  FeatureMap map;
  map.kind = linear.feature_map;
  map.features = sizes.features;
  map.query_scale = linear.query_scale;
  return map;
}

// On the device; empty for no values.
Buffer LoadValues(WeightLoader& loader, std::span<const float> values) {
  return values.empty() ? Buffer() : loader.LoadVector(values);
}

// Rows of head_dim values, as the files have them, in HeadOrder.
std::vector<float> InHeadOrder(const ModelConfig& config, std::vector<float> values) {
  const std::vector<int> order = HeadOrder(config);
  if (order.empty()) return values;
  std::vector<float> ordered(values.size());
  for (size_t row = 0; row < values.size(); row += order.size()) {
    for (size_t i = 0; i < order.size(); ++i) {
      ordered[row + i] = values[row + static_cast<size_t>(order[i])];
    }
  }
  return ordered;
}

}  // namespace

FeatureMapWeights ReadFeatureMap(const WeightLoader& loader, const ModelConfig& config, int layer,
                                 bool cross) {
  FeatureMapWeights map;
  if (!config.is_linear(layer, cross)) return map;
  const LinearAttentionConfig& linear = *config.linear_attention;
  map.rows = MapOf(linear, linear.sizes(layer, cross)).projected_features();
  const std::string name = AttentionPrefix(config, layer, cross) + "feature_map.";
  const auto read = [&](const char* tensor) { return loader.Floats(name + tensor); };
  const auto rows = [&](const char* tensor) { return InHeadOrder(config, read(tensor)); };
  switch (linear.feature_map) {
    case FeatureMapKind::kT2r:
      map.weight = rows("weight");
      map.bias = read("bias");
      break;
    case FeatureMapKind::kElu:
    case FeatureMapKind::kNone:
      break;
    case FeatureMapKind::kRfa:
      map.weight = rows("projection");
      break;
    case FeatureMapKind::kHedgehog:
      map.weight = rows("weight");
      break;
    case FeatureMapKind::kCodebook:
      map.weight = rows("key_weight");
      map.bias = read("key_bias");
      map.query_weight = rows("query_weight");
      map.query_bias = read("query_bias");
      break;
  }
  if (loader.Lists(name + "far_bias")) map.far_bias = read("far_bias");
  if (loader.Lists(name + "log_decay") && loader.Has(name + "log_decay")) {
    map.log_decay = read("log_decay");
    for (const float value : map.log_decay) {
      if (!(value <= 0 && std::isfinite(value))) {
        throw ModelError("tensor " + name + "log_decay holds " + std::to_string(value) +
                         "; it must be finite and at most 0");
      }
    }
  }
  return map;
}

bool ShouldFold(const ModelConfig& config, int layer, bool cross) {
  if (!config.is_linear(layer, cross)) return false;
  const LinearAttentionConfig& linear = *config.linear_attention;
  const LinearSizes sizes = linear.sizes(layer, cross);
  if (sizes.window > 0 || (linear.feature_map != FeatureMapKind::kT2r &&
                           linear.feature_map != FeatureMapKind::kHedgehog)) {
    return false;
  }
  const int64_t rows = MapOf(linear, sizes).projected_features();
  const int64_t hidden = config.hidden_size;
  return rows * hidden < config.head_dim * (hidden + rows);
}

Attention::Attention(const ModelConfig& config, int layer, bool cross)
    : heads_(config.heads),
      groups_(config.kv_heads),
      head_dim_(config.head_dim),
      query_width_(config.head_dim) {
  const bool linear = config.is_linear(layer, cross);
  if (linear && cross) index_ = config.linear_layers();
  for (int i = 0; i < layer; ++i) {
    if (config.is_linear(i, cross) == linear) ++index_;
  }
}

Attention Attention::Load(WeightLoader& loader, const ModelConfig& config, int layer, bool cross,
                          const FeatureMapWeights& map, bool folded) {
  Attention attention(config, layer, cross);
  if (!config.is_linear(layer, cross)) return attention;
  const LinearAttentionConfig& linear = *config.linear_attention;
  attention.sizes_ = linear.sizes(layer, cross);
  const bool windowed =
      attention.sizes_.window > 0 || linear.feature_map == FeatureMapKind::kCodebook;
  attention.kind_ = windowed ? Kind::kWindowed : Kind::kLinear;
  attention.map_ = MapOf(linear, attention.sizes_);
  attention.map_.folded = folded;
  attention.rope_features_ = linear.rope_features;
  attention.normalizer_ = linear.normalizer;
  attention.eps_ = linear.eps;
  attention.log_decay_ = LoadValues(loader, map.log_decay);
  if (folded) {
    attention.query_width_ = map.rows;
    return attention;
  }
  attention.weight_ = LoadValues(loader, map.weight);
  attention.bias_ = LoadValues(loader, map.bias);
  attention.query_weight_ = LoadValues(loader, map.query_weight);
  attention.query_bias_ = LoadValues(loader, map.query_bias);
  attention.far_bias_ = LoadValues(loader, map.far_bias);
  attention.map_.weight = attention.weight_.f32();
  attention.map_.bias = attention.bias_.f32();
  attention.map_.query_weight = attention.query_weight_.f32();
  attention.map_.query_bias = attention.query_bias_.f32();
  if (windowed && !cross && config.rotary_dim > 0) attention.LoadAngles(config, loader);
  return attention;
}

void Attention::LoadAngles(const ModelConfig& config, WeightLoader& loader) {
  const std::vector<double> frequencies = HeadFrequencies(config);
  const auto load = [&](int64_t first, int64_t count, double factor) {
    std::vector<float> values;
    for (int64_t position = first; position < first + count; ++position) {
      const auto at = static_cast<double>(position);
      for (const double f : frequencies) {
        values.push_back(static_cast<float>(std::cos(at * f) * (f == 0 ? 1.0 : factor)));
      }
      for (const double f : frequencies) {
        values.push_back(static_cast<float>(std::sin(at * f) * factor));
      }
    }
    return loader.LoadVector(values);
  };
  const LinearAttentionConfig& linear = *config.linear_attention;
  const double factor = RopeFactor(config);
  // A key that is turned back has the factor, and meets it once more in its row's own angle.
  if (sizes_.window > 0 && !rope_features_) {
    fold_cos_sin_ = load(sizes_.window, sizes_.fold, 1.0 / (factor * factor));
  }
  if (sizes_.sinks > 0 && linear.sink_position.has_value()) {
    sink_position_ = *linear.sink_position;
    sink_cos_sin_ = load(sink_position_, 1, factor);
  }
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
  args.log_decay = log_decay_.f32();
  args.state = caches.states.sums(index_);
  args.slot_stride = caches.states.stride();
  return args;
}

WindowedAttentionArgs Attention::WindowedArgs(LinearAttentionMode mode,
                                              const Caches& caches) const {
  WindowedAttentionArgs args;
  args.mode = mode;
  args.heads = heads_;
  args.groups = groups_;
  args.head_dim = head_dim_;
  args.map = map_;
  args.window = sizes_.window;
  args.sinks = sizes_.sinks;
  args.fold = sizes_.fold;
  args.rope_features = rope_features_;
  args.fold_cos_sin = fold_cos_sin_.f32();
  args.sink_cos_sin = sink_cos_sin_.f32();
  args.sink_position = sink_position_;
  args.far_bias = far_bias_.f32();
  args.log_decay = log_decay_.f32();
  args.state = caches.states.sums(index_);
  args.window_state = caches.states.window(index_);
  args.window_dtype = caches.states.shape().window_dtype;
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
  args.pages_dtype = kv.shape().dtype;
  args.page_stride = kv.page_stride();
  return args;
}

void Attention::Run(Backend& backend, const Batch& batch, const Caches& caches, Tensor cos_sin,
                    Tensor qkv, Tensor out) const {
  const auto run = [&](auto args, auto op) {
    args.q = qkv.Columns(0, query_columns());
    args.k = qkv.Columns(query_columns(), key_columns());
    args.v = qkv.Columns(query_columns() + key_columns(), value_columns());
    args.out = out;
    (backend.*op)(batch, args);
  };
  if (kind_ == Kind::kWindowed) {
    WindowedAttentionArgs args = WindowedArgs(LinearAttentionMode::kCausal, caches);
    args.cos_sin = cos_sin;
    return run(args, &Backend::WindowedAttention);
  }
  // Queries and keys lie side by side: one call turns both.
  if (cos_sin.data != nullptr && (kind_ == Kind::kFull || rope_features_)) {
    backend.Rope(cos_sin, heads_ + groups_, head_dim_,
                 qkv.Columns(0, query_columns() + key_columns()));
  }
  if (kind_ == Kind::kLinear) {
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
  switch (kind_) {
    case Kind::kFull:
      return run(FullArgs(FullAttentionMode::kAppend, caches.source_kv), &Backend::FullAttention);
    case Kind::kLinear:
      return run(LinearArgs(LinearAttentionMode::kAccumulate, caches), &Backend::LinearAttention);
    case Kind::kWindowed:
      return run(WindowedArgs(LinearAttentionMode::kAccumulate, caches),
                 &Backend::WindowedAttention);
  }
}

void Attention::CrossAttend(Backend& backend, const Batch& batch, const Caches& caches, Tensor q,
                            Tensor out) const {
  const auto run = [&](auto args, auto op) {
    args.q = q;
    args.out = out;
    (backend.*op)(batch, args);
  };
  switch (kind_) {
    case Kind::kFull:
      return run(FullArgs(FullAttentionMode::kCross, caches.source_kv), &Backend::FullAttention);
    case Kind::kLinear:
      return run(LinearArgs(LinearAttentionMode::kRead, caches), &Backend::LinearAttention);
    case Kind::kWindowed:
      return run(WindowedArgs(LinearAttentionMode::kRead, caches), &Backend::WindowedAttention);
  }
}

}  // namespace t2r

#include "engine/model/cost.h"

#include "engine/model/attention.h"

namespace t2r {
namespace {

class Counter {
 public:
  Counter(DType dtype, int64_t rows) : dtype_(dtype), rows_(rows) {}

  void MatMul(int64_t outputs, int64_t inputs, bool bias) { MatMul(outputs, inputs, bias, dtype_); }
  void MatMul(int64_t outputs, int64_t inputs, bool bias, DType dtype) {
    cost.flops += 2 * rows_ * outputs * inputs;
    cost.weight_bytes +=
        outputs * inputs * static_cast<int64_t>(SizeOf(dtype)) + (bias ? outputs * 4 : 0);
  }

  StepCost cost;

 private:
  DType dtype_;
  int64_t rows_;
};

// Projected features a head, and whether the projection lives in the query and key matrices.
struct MapShape {
  int64_t rows = 0;
  bool bias = false;
  bool folded = false;
};

MapShape MapShapeOf(const ModelConfig& config) {
  FeatureMap map;
  map.kind = config.linear_attention->feature_map;
  map.features = config.linear_attention->feature_size;
  return {map.projected_features(), map.kind == FeatureMapKind::kT2r,
          config.architecture == Architecture::kGpt2 && ShouldFold(config)};
}

void AddLinearAttention(const ModelConfig& config, const MapShape& map, int64_t sessions,
                        StepCost* cost) {
  const int64_t heads = config.heads;
  const int64_t groups = config.kv_heads;
  const int64_t d = config.head_dim;
  const int64_t k = config.linear_attention->feature_size;
  if (!map.folded) {
    cost->flops += sessions * (heads + groups) * 2 * map.rows * d;
    cost->weight_bytes += groups * map.rows * (d + (map.bias ? 1 : 0)) * 4;
  }
  cost->flops += sessions * groups * (2 * k * d + k);     // S += φ(k)vᵀ, z += φ(k)
  cost->flops += sessions * heads * (2 * k * d + 2 * k);  // φ(q)ᵀS, φ(q)·z
  cost->state_bytes += sessions * 2 * groups * k * (d + 1) * 4;
}

void AddFullAttention(const ModelConfig& config, int64_t sessions, int64_t position,
                      StepCost* cost) {
  const int64_t d = config.head_dim;
  const int64_t keys = position + 1;
  cost->flops += sessions * config.heads * 4 * keys * d;
  cost->state_bytes += sessions * config.kv_heads * 2 * (keys + 1) * d * 4;
}

}  // namespace

StepCost CostOfDecodeStep(const ModelConfig& config, DType weight_dtype, int sessions,
                          int64_t position) {
  Counter counter(weight_dtype, sessions);
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t d = config.head_dim;
  const bool gpt2 = config.architecture == Architecture::kGpt2;
  const int64_t norm_bytes = hidden * (gpt2 ? 8 : 4);
  for (const LayerType type : config.layer_types) {
    const bool linear = type == LayerType::kLinearAttention;
    const MapShape map = linear ? MapShapeOf(config) : MapShape();
    const int64_t width = map.folded ? map.rows : d;
    counter.MatMul((config.heads + config.kv_heads) * width + config.kv_heads * d, hidden,
                   config.qkv_bias, map.folded ? DType::kFloat32 : weight_dtype);
    if (linear) {
      AddLinearAttention(config, map, sessions, &counter.cost);
    } else {
      AddFullAttention(config, sessions, position, &counter.cost);
    }
    counter.MatMul(hidden, config.heads * d, config.attention_out_bias);
    counter.MatMul(gpt2 ? inner : 2 * inner, hidden, config.mlp_bias);
    counter.MatMul(hidden, inner, config.mlp_bias);
    counter.cost.weight_bytes += 2 * norm_bytes;
  }
  counter.MatMul(config.vocab_size, hidden, false);
  counter.cost.weight_bytes += norm_bytes;
  return counter.cost;
}

}  // namespace t2r

#include "bench/cost.h"

#include <algorithm>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/ops/quantize.h"
#include "engine/ops/windowed_attention.h"

namespace t2r {
namespace {

StepCost MatMulCost(int64_t rows, int64_t outputs, int64_t inputs, bool bias, DType dtype) {
  StepCost cost;
  cost.flops = 2 * rows * outputs * inputs;
  cost.weight_bytes = MatrixBytes(outputs, inputs, dtype) + (bias ? outputs * 4 : 0);
  return cost;
}

// Projected features a head, and whether the projection lives in the query and key matrices.
struct MapShape {
  int64_t rows = 0;
  bool bias = false;
  bool folded = false;
};

MapShape MapShapeOf(const ModelConfig& config, int layer, bool cross) {
  FeatureMap map;
  map.kind = config.linear_attention->feature_map;
  map.features = config.linear_attention->sizes(layer, cross).features;
  // Llama's rotation stands between projection and map.
  const bool foldable =
      config.architecture == &kGpt2Architecture || config.architecture == &kMarianArchitecture;
  return {map.projected_features(), map.kind == FeatureMapKind::kT2r,
          foldable && ShouldFold(config, layer, cross)};
}

// cross: of an encoder-decoder, whose state a decode step only reads.
StepCost LinearAttentionCost(const ModelConfig& config, int layer, bool cross, const MapShape& map,
                             int64_t sessions) {
  StepCost cost;
  const int64_t heads = config.heads;
  const int64_t groups = config.kv_heads;
  const int64_t d = config.head_dim;
  const int64_t k = config.linear_attention->sizes(layer, cross).features;
  if (!map.folded) {
    cost.flops += sessions * (heads + (cross ? 0 : groups)) * 2 * map.rows * d;
    cost.weight_bytes += groups * map.rows * (d + (map.bias ? 1 : 0)) * 4;
  }
  if (!cross) cost.flops += sessions * groups * (2 * k * d + k);  // S += φ(k)vᵀ, z += φ(k)
  cost.flops += sessions * heads * (2 * k * d + 2 * k);           // φ(q)ᵀS, φ(q)·z
  cost.state_bytes += sessions * (cross ? 1 : 2) * groups * k * (d + 1) * 4;
  return cost;
}

// With a window or a codebook, once keys are folded: one of them a token, on average.
StepCost WindowedAttentionCost(const ModelConfig& config, int layer, const MapShape& map,
                               int64_t sessions, int64_t position, DType window_dtype) {
  StepCost cost;
  const int64_t heads = config.heads;
  const int64_t groups = config.kv_heads;
  const int64_t d = config.head_dim;
  const LinearSizes sizes = config.linear_attention->sizes(layer);
  const int64_t k = sizes.features;
  int64_t near = 0;
  if (sizes.window > 0) {
    const int64_t beyond = std::max<int64_t>(0, position - sizes.window + 1);
    const int64_t folded = beyond / sizes.fold * sizes.fold;
    const int64_t sinks = std::min<int64_t>(sizes.sinks, position + 1);
    near = sinks + position + 1 - std::max(folded, sinks);
    // Read, and one written.
    cost.state_bytes += sessions * WindowBytes(near + 1, groups, d, window_dtype);
  }
  const bool codebook = config.linear_attention->feature_map == FeatureMapKind::kCodebook;
  cost.weight_bytes += groups * map.rows * (d + (map.bias || codebook ? 1 : 0)) * 4;
  if (codebook) cost.weight_bytes += (groups * d + heads) * k * 4;
  cost.flops += sessions * (heads + groups) * 2 * map.rows * d;
  cost.flops += sessions * heads * 4 * near * d;
  cost.flops += sessions * groups * (2 * k * d + k);     // S += f(k)vᵀ, z += f(k)
  cost.flops += sessions * heads * (2 * k * d + 2 * k);  // φᵀS, φ·z
  // Read by every token, written by one in `fold`.
  cost.state_bytes += sessions * groups * k * (d + 1) * 4;
  cost.state_bytes += sessions * groups * k * (d + 1) * 4 / sizes.fold;
  return cost;
}

// Over `keys` keys, of which `added` are new and written.
StepCost FullAttentionCost(const ModelConfig& config, int64_t sessions, int64_t keys, int64_t added,
                           DType kv_dtype) {
  StepCost cost;
  const int64_t d = config.head_dim;
  cost.flops += sessions * config.heads * 4 * keys * d;
  cost.state_bytes +=
      sessions * config.kv_heads * 2 * (keys + added) * d * static_cast<int64_t>(SizeOf(kv_dtype));
  return cost;
}

}  // namespace

std::vector<StepOperation> OperationsOfDecodeStep(const ModelConfig& config, const StepTypes& types,
                                                  int sessions, int64_t position, int64_t source) {
  std::vector<StepOperation> operations;
  const auto matmul = [&](int64_t outputs, int64_t inputs, bool bias, DType dtype) {
    operations.push_back({MatMulCost(sessions, outputs, inputs, bias, dtype), dtype});
  };
  const auto attention = [&](const StepCost& cost) { operations.push_back({cost}); };
  const DType weight_dtype = types.weights;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t d = config.head_dim;
  const bool gpt2 = config.architecture == &kGpt2Architecture;
  // Marian's projections all have biases, whatever the configuration says, and no gate.
  const bool marian = config.architecture == &kMarianArchitecture;
  // A matrix with a folded part stays float32.
  const auto dtype_of = [&](const MapShape& map) {
    return map.folded ? DType::kFloat32 : weight_dtype;
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    const bool linear = config.is_linear(layer, false);
    const MapShape map = linear ? MapShapeOf(config, layer, false) : MapShape();
    const int64_t width = map.folded ? map.rows : d;
    matmul((config.heads + config.kv_heads) * width + config.kv_heads * d, hidden,
           marian || config.qkv_bias, dtype_of(map));
    if (!linear) {
      attention(FullAttentionCost(config, sessions, position + 1, 1, types.kv));
    } else if (config.linear_attention->sizes(layer).window > 0 ||
               config.linear_attention->feature_map == FeatureMapKind::kCodebook) {
      attention(WindowedAttentionCost(config, layer, map, sessions, position, types.windows));
    } else {
      attention(LinearAttentionCost(config, layer, false, map, sessions));
    }
    matmul(hidden, config.heads * d, marian || config.attention_out_bias, weight_dtype);
    if (marian) {
      const bool linear_cross = config.is_linear(layer, true);
      const MapShape cross = linear_cross ? MapShapeOf(config, layer, true) : MapShape();
      matmul(config.heads * (cross.folded ? cross.rows : d), hidden, true, dtype_of(cross));
      attention(linear_cross ? LinearAttentionCost(config, layer, true, cross, sessions)
                             : FullAttentionCost(config, sessions, source, 0, types.kv));
      matmul(hidden, config.heads * d, true, weight_dtype);
    }
    matmul(gpt2 || marian ? inner : 2 * inner, hidden, marian || config.mlp_bias, weight_dtype);
    matmul(hidden, inner, marian || config.mlp_bias, weight_dtype);
  }
  // Marian's final_logits_bias, which nearly every checkpoint has.
  // With int4 and fp8 the head is kept in int8.
  matmul(
      config.vocab_size, hidden, marian,
      weight_dtype == DType::kInt4 || weight_dtype == DType::kFloat8 ? DType::kInt8 : weight_dtype);
  return operations;
}

StepCost CostOfDecodeStep(const ModelConfig& config, const StepTypes& types, int sessions,
                          int64_t position, int64_t source) {
  StepCost sum;
  for (const StepOperation& operation :
       OperationsOfDecodeStep(config, types, sessions, position, source)) {
    sum.flops += operation.cost.flops;
    sum.weight_bytes += operation.cost.weight_bytes;
    sum.state_bytes += operation.cost.state_bytes;
  }
  const bool marian = config.architecture == &kMarianArchitecture;
  const bool final_norm = !marian || config.encoder_decoder->final_norm;
  const int64_t norms = int64_t{config.layers} * (marian ? 3 : 2) + (final_norm ? 1 : 0);
  // Llama's norms have a weight only, the others' a bias too.
  const bool biased = marian || config.architecture == &kGpt2Architecture;
  sum.weight_bytes += norms * config.hidden_size * (biased ? 8 : 4);
  return sum;
}

StepFloor FloorOfOperations(const std::vector<StepOperation>& operations, double bytes_per_second,
                            const std::function<double(DType)>& flops_per_second) {
  StepFloor floor;
  for (const StepOperation& operation : operations) {
    const StepCost& cost = operation.cost;
    const double compute = static_cast<double>(cost.flops) / flops_per_second(operation.weights);
    const double memory =
        static_cast<double>(cost.weight_bytes + cost.state_bytes) / bytes_per_second;
    floor.compute_seconds += compute;
    floor.memory_seconds += memory;
    floor.seconds += std::max(compute, memory);
  }
  return floor;
}

}  // namespace t2r

// What the kernels of windowed attention share: their parameters, and where keys and values lie.
#pragma once

#include <cstdint>

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/cuda/linear_kernels.h"
#include "engine/ops/windowed_attention.h"

namespace t2r::cuda {

// A map without a normaliser, as LinearParameters take it.
inline LinearAttentionArgs LinearPartOf(const WindowedAttentionArgs& args) {
  LinearAttentionArgs linear;
  linear.mode = args.mode;
  linear.heads = args.heads;
  linear.groups = args.groups;
  linear.head_dim = args.head_dim;
  linear.map = args.map;
  linear.q = args.q;
  linear.k = args.k;
  linear.v = args.v;
  linear.out = args.out;
  linear.state = args.state;
  linear.slot_stride = args.slot_stride;
  return linear;
}

// WindowedAttentionArgs as kernels take them.
//
// A slot's window is keys [G, R + n, d], then values likewise: place j mod R of a group holds
// position j, places R … R + n − 1 the sinks.
struct WindowedParameters {
  LinearParameters map;       // sizes, rows, S and z, and f: weight A and bias a of a codebook
  const float* query_weight;  // E [G, M, d]; the other maps' own weight
  const float* query_bias;    // b [H, M]; codebook only
  int window;                 // w; 0: none
  int sinks;                  // n
  int fold;                   // C
  int ring;                   // R
  bool rope;                  // whether there are rotary positions
  bool rope_features;         // f and φ see rotated vectors
  RowView cos_sin;            // [T, d]
  const float* fold_cos_sin;  // [C, d]
  const float* sink_cos_sin;  // [d], or null
  int64_t sink_position;
  const float* far_bias;   // [H], or null
  const float* log_decay;  // [G], or null
  char* window_state;
  bool narrow_window;  // keys and values are kept as bfloat16

  explicit WindowedParameters(const WindowedAttentionArgs& args)
      : map(LinearPartOf(args)),
        query_weight(args.map.kind == FeatureMapKind::kCodebook ? args.map.query_weight
                                                                : args.map.weight),
        query_bias(args.map.query_bias),
        window(args.window),
        sinks(args.sinks),
        fold(args.fold),
        ring(static_cast<int>(args.ring())),
        rope(args.cos_sin.data != nullptr),
        rope_features(args.rope_features),
        cos_sin(args.cos_sin),
        fold_cos_sin(args.fold_cos_sin),
        sink_cos_sin(args.sink_cos_sin),
        sink_position(args.sink_position),
        far_bias(args.far_bias),
        log_decay(args.log_decay),
        window_state(static_cast<char*>(args.window_state)),
        narrow_window(args.window_dtype == DType::kBFloat16) {}

  __host__ __device__ __forceinline__ bool codebook() const {
    return map.kind == FeatureMapKind::kCodebook;
  }
  // Whether keys are turned back from their rotation before f sees them.
  __host__ __device__ __forceinline__ bool turns_back() const {
    return rope && !rope_features && window > 0;
  }
  // Whether the keys are kept, or given, rotated.
  __host__ __device__ __forceinline__ bool rotates_keys() const {
    return rope && (window > 0 || rope_features);
  }

  // F(i); without a window every key is folded by its own row.
  __host__ __device__ __forceinline__ int64_t FoldedBefore(int64_t i) const {
    if (window == 0) return i + 1;
    const int64_t beyond = i - window + 1;
    return beyond <= 0 ? 0 : beyond / fold * fold;
  }
  // ρ_g to the power of a distance.
  __device__ __forceinline__ float Decay(int group, int64_t distance) const {
    return log_decay == nullptr ? 1.0F : expf(log_decay[group] * static_cast<float>(distance));
  }

  // A slot's window. Element (group, place, i) of its keys, and of its values.
  __device__ __forceinline__ RowView Window(int slot) const {
    RowView view;
    view.data = window_state + slot * map.slot_stride * static_cast<int64_t>(sizeof(float));
    view.stride = map.d;
    view.narrow = narrow_window;
    return view;
  }
  __device__ __forceinline__ int64_t KeyRow(int group, int64_t place) const {
    return group * int64_t{ring + sinks} + place;
  }
  __device__ __forceinline__ int64_t ValueRow(int group, int64_t place) const {
    return (map.groups + group) * int64_t{ring + sinks} + place;
  }
};

// Element i of a head's vector x of the batch, rotated by a row of cosines and sines if `rotate`.
// Halves turn against each other, as in Backend::Rope.
__device__ __forceinline__ float Rotated(const RowView& x, int64_t row, int64_t first_column, int d,
                                         int i, bool rotate, const RowView& cos_sin,
                                         int64_t cos_row) {
  const float own = x.Get(row, first_column + i);
  if (!rotate) return own;
  const int half = d / 2;
  const bool low = i < half;
  const int pair = low ? i : i - half;
  const float other = x.Get(row, first_column + (low ? i + half : pair));
  const float c = cos_sin.Get(cos_row, pair);
  const float s = cos_sin.Get(cos_row, half + pair);
  return low ? own * c - other * s : own * c + other * s;
}

// Elements pair and d/2 + pair of a key, turned back from its rotation: its angles are those of the
// row that folds it less those of the distance between them, whose cosines and sines are at
// `distance` [d].
struct TurnedPair {
  float low, high;
};
__device__ __forceinline__ TurnedPair TurnBack(float low, float high, const RowView& cos_sin,
                                               int64_t row, const float* distance, int d,
                                               int pair) {
  const int half = d / 2;
  const float row_cos = cos_sin.Get(row, pair);
  const float row_sin = cos_sin.Get(row, half + pair);
  const float c = row_cos * distance[pair] + row_sin * distance[half + pair];
  const float s = row_sin * distance[pair] - row_cos * distance[half + pair];
  return {low * c + high * s, high * c - low * s};
}

// A codebook's exponent (E (s q) + b)_m, without the clamp; u = (E q)_m.
__device__ __forceinline__ float CodebookExponent(const WindowedParameters& p, int head, int m,
                                                  float u) {
  return u * p.map.query_scale + p.query_bias[static_cast<int64_t>(head) * p.map.k + m];
}

// Fills in what f needs of a codebook's key: the largest exponent of u + a and Σ e^(it − largest).
// All lanes of a warp call it with the same vector.
__device__ __forceinline__ void FindCodebookSoftmax(const WindowedParameters& p, int group,
                                                    const float* u, VectorFacts* facts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const float* bias = p.map.bias + static_cast<int64_t>(group) * p.map.k;
  float high = -INFINITY;
  for (int m = lane; m < p.map.k; m += kWarpSize) high = fmaxf(high, u[m] + bias[m]);
  facts->high = WarpMax(high);
  float sum = 0;
  for (int m = lane; m < p.map.k; m += kWarpSize) sum += expf(u[m] + bias[m] - facts->high);
  facts->sum_positive = WarpSum(sum);
}

// f_m of a key whose projection is u.
__device__ __forceinline__ float KeyFeature(const WindowedParameters& p, int group, int m,
                                            const float* u, const VectorFacts& facts) {
  if (!p.codebook()) return Feature(p.map, group, m, u, facts);
  return expf(u[m] + p.map.bias[static_cast<int64_t>(group) * p.map.k + m] - facts.high) /
         facts.sum_positive;
}

// Launch parts of WindowedAttention: rows that stand alone, and tiles.
void DecodeWindowedAttention(const OpContext& context, const WindowedParameters& parameters);
void PrefillWindowedAttention(const OpContext& context, const WindowedParameters& parameters);

}  // namespace t2r::cuda

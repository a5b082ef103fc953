// What the kernels of linear attention share: their parameters and the elementwise part of φ.
#pragma once

#include <cstdint>

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/linear_attention.h"

namespace t2r::cuda {

// A Tensor as a kernel reads or writes it, one element at a time.
struct RowView {
  void* data = nullptr;
  int64_t stride = 0;
  bool narrow = false;  // bfloat16

  RowView() = default;
  explicit RowView(const Tensor& tensor)
      : data(tensor.data), stride(tensor.stride), narrow(tensor.dtype == DType::kBFloat16) {}

  __device__ __forceinline__ float Get(int64_t row, int64_t column) const {
    const int64_t at = row * stride + column;
    return narrow ? ToFloat(static_cast<const BFloat16*>(data)[at])
                  : static_cast<const float*>(data)[at];
  }
  __device__ __forceinline__ void Set(int64_t row, int64_t column, float value) const {
    const int64_t at = row * stride + column;
    if (narrow) {
      static_cast<BFloat16*>(data)[at] = FromFloat<BFloat16>(value);
    } else {
      static_cast<float*>(data)[at] = value;
    }
  }
};

// LinearAttentionArgs as kernels take them.
struct LinearParameters {
  LinearAttentionMode mode;
  FeatureMapKind kind;
  bool folded;
  bool clamp;              // the normaliser
  int groups;              // G
  int num_queries_per_kv;  // query heads a group
  int d;                   // head_dim
  int k;                   // features
  int projected;           // rows of the map's projection: 0 for elu
  int width;               // elements of a head's q and k: d, or projected when folded
  float query_scale;
  float eps;
  const float* weight;  // [G, projected, d]; null when folded or without
  const float* bias;    // [G, k]; null when folded or without
  RowView q, key, v, out;
  float* state;
  int64_t slot_stride;

  explicit LinearParameters(const LinearAttentionArgs& args)
      : mode(args.mode),
        kind(args.map.kind),
        folded(args.map.folded),
        clamp(args.normalizer == Normalizer::kClamp),
        groups(args.groups),
        num_queries_per_kv(args.heads / args.groups),
        d(args.head_dim),
        k(args.map.features),
        projected(args.map.projected_features()),
        width(folded ? projected : d),
        query_scale(folded ? 1.0F : args.map.query_scale),
        eps(args.eps),
        weight(folded ? nullptr : args.map.weight),
        bias(folded ? nullptr : args.map.bias),
        q(args.q),
        key(args.k),
        v(args.v),
        out(args.out),
        state(args.state),
        slot_stride(args.slot_stride) {}

  __host__ __device__ __forceinline__ bool reads() const {
    return mode != LinearAttentionMode::kAccumulate;
  }
  __host__ __device__ __forceinline__ bool updates() const {
    return mode != LinearAttentionMode::kRead;
  }
  __device__ __forceinline__ float* S(int64_t slot, int group) const {
    return state + slot * slot_stride + static_cast<int64_t>(group) * k * d;
  }
  __device__ __forceinline__ float* Z(int64_t slot, int group) const {
    return state + slot * slot_stride + (static_cast<int64_t>(groups) * d + group) * k;
  }
  __device__ __forceinline__ float Denominator(float sum) const {
    return clamp ? fmaxf(sum, eps) : sum + eps;
  }
};

// sin x, or cos x, for |x| < 10^5 (a standard normal row of rfa's projection times a vector of
// length 1 is far below): x less a multiple n of π/2, in three parts by fused multiply-adds, then
// Taylor's polynomials on |r| ≤ π/4 (remainders below 2e-9). Off by about 2^-24, and n · 2^-47 near
// a zero. The same bits everywhere, and no stack, which the library's reduction of large arguments
// takes.
__device__ __forceinline__ float SinOrCos(float x, bool cosine) {
  const float n = rintf(x * 0.636619772F);
  float r = fmaf(n, -1.57079637F, x);
  r = fmaf(n, 4.37113883e-8F, r);
  r = fmaf(n, 1.71512451e-15F, r);
  const int quarter = static_cast<int>(n) + (cosine ? 1 : 0);
  const float s = r * r;
  float odd = 1.0F / 362880.0F;
  odd = fmaf(odd, s, -1.0F / 5040.0F);
  odd = fmaf(odd, s, 1.0F / 120.0F);
  odd = fmaf(odd, s, -1.0F / 6.0F);
  odd = fmaf(odd * s, r, r);
  float even = -1.0F / 3628800.0F;
  even = fmaf(even, s, 1.0F / 40320.0F);
  even = fmaf(even, s, -1.0F / 720.0F);
  even = fmaf(even, s, 1.0F / 24.0F);
  even = fmaf(even, s, -0.5F);
  even = fmaf(even, s, 1.0F);
  const float value = (quarter & 1) != 0 ? even : odd;
  return (quarter & 2) != 0 ? -value : value;
}

// What φ needs to know of a whole vector before its elements: RFA's factor, the softmaxes' ranges.
struct VectorFacts {
  float factor = 1;  // on the projection: query_scale, for rfa also 1 / max(‖x‖, 1e-12)
  float high = 0;    // hedgehog: the largest and the smallest projection
  float low = 0;
  float sum_positive = 1;  // hedgehog: Σ e^(u − high)
  float sum_negative = 1;  // hedgehog: Σ e^(low − u)
};

// φ_i, where u is the vector's projection (x itself for elu) without VectorFacts::factor.
__device__ __forceinline__ float Feature(const LinearParameters& p, int group, int i,
                                         const float* u, const VectorFacts& facts) {
  switch (p.kind) {
    case FeatureMapKind::kT2r: {
      float value = u[i] * facts.factor;
      if (p.bias != nullptr) value += p.bias[group * p.k + i];
      return fmaxf(value, 0.0F);
    }
    case FeatureMapKind::kElu: {
      const float value = u[i] * facts.factor;
      return value > 0 ? value + 1.0F : expf(value);
    }
    case FeatureMapKind::kRfa: {
      const float value = u[i < p.projected ? i : i - p.projected] * facts.factor;
      return SinOrCos(value, i >= p.projected) / sqrtf(static_cast<float>(p.projected));
    }
    case FeatureMapKind::kHedgehog:
      return i < p.projected
                 ? expf(u[i] * facts.factor - facts.high) / facts.sum_positive
                 : expf(facts.low - u[i - p.projected] * facts.factor) / facts.sum_negative;
    case FeatureMapKind::kCodebook:
    case FeatureMapKind::kNone:
      break;
  }
  return 0;
}

// Fills in a hedgehog vector's ranges. All lanes of a warp call it with the same vector, whose
// factor is known, and get the same facts.
__device__ __forceinline__ void FindSoftmax(const LinearParameters& p, const float* u,
                                            VectorFacts* facts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float high = -INFINITY;
  float negative_low = -INFINITY;
  for (int i = lane; i < p.projected; i += kWarpSize) {
    high = fmaxf(high, u[i] * facts->factor);
    negative_low = fmaxf(negative_low, -(u[i] * facts->factor));
  }
  facts->high = WarpMax(high);
  facts->low = -WarpMax(negative_low);
  float positive = 0;
  float negative = 0;
  for (int i = lane; i < p.projected; i += kWarpSize) {
    positive += expf(u[i] * facts->factor - facts->high);
    negative += expf(facts->low - u[i] * facts->factor);
  }
  facts->sum_positive = WarpSum(positive);
  facts->sum_negative = WarpSum(negative);
}

// Launch parts of LinearAttention: rows that stand alone, and tiles.
void DecodeLinearAttention(const OpContext& context, const LinearParameters& parameters);
void PrefillLinearAttention(const OpContext& context, const LinearParameters& parameters);

}  // namespace t2r::cuda

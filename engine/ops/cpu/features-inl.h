// Feature maps φ of linear attention. Included once an instruction set.
#if defined(T2R_ENGINE_OPS_CPU_FEATURES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef T2R_ENGINE_OPS_CPU_FEATURES_INL_H_
#undef T2R_ENGINE_OPS_CPU_FEATURES_INL_H_
#else
#define T2R_ENGINE_OPS_CPU_FEATURES_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "engine/ops/cpu/simd-inl.h"
#include "engine/ops/linear_attention.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {

// The sums of four vectors' lanes, in the first four floats of `out`.
HWY_INLINE void SumFour(VF a, VF b, VF c, VF e, float* out) {
#if HWY_TARGET == HWY_SCALAR
  out[0] = Sum(a), out[1] = Sum(b), out[2] = Sum(c), out[3] = Sum(e);
#else
  const DF d;
  const VF ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const VF ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const hn::RepartitionToWide<DF> dw;
  const auto wide_ab = hn::BitCast(dw, ab);
  const auto wide_ce = hn::BitCast(dw, ce);
  // [a b c e] of each 128-bit block.
  const VF blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, wide_ab, wide_ce)),
                            hn::BitCast(d, hn::InterleaveUpper(dw, wide_ab, wide_ce)));
  HWY_ALIGN float lanes[kLanes];
  hn::Store(blocks, d, lanes);
  const hn::CappedTag<float, 4> d4;
  auto sum = hn::Load(d4, lanes);
  for (int64_t i = 4; i < kLanes; i += 4) sum = hn::Add(sum, hn::Load(d4, lanes + i));
  hn::StoreU(sum, d4, out);
#endif
}

// out[i] = w[i]·x for i in [0, rows); w [rows, n], x zero-padded to whole vectors, out to 4.
HWY_INLINE void Project(const float* HWY_RESTRICT w, const float* HWY_RESTRICT x, int64_t rows,
                        int64_t n, float* HWY_RESTRICT out) {
  const DF d;
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < rows; i += 4) {
    // Beyond the last row, the last one again: its results are not used.
    const float* w0 = w + i * n;
    const float* w1 = w + std::min(i + 1, rows - 1) * n;
    const float* w2 = w + std::min(i + 2, rows - 1) * n;
    const float* w3 = w + std::min(i + 3, rows - 1) * n;
    VF s0 = hn::Zero(d);
    VF s1 = s0;
    VF s2 = s0;
    VF s3 = s0;
    int64_t j = 0;
    for (; j < whole; j += kLanes) {
      const VF v = hn::LoadU(d, x + j);
      s0 = hn::MulAdd(hn::LoadU(d, w0 + j), v, s0);
      s1 = hn::MulAdd(hn::LoadU(d, w1 + j), v, s1);
      s2 = hn::MulAdd(hn::LoadU(d, w2 + j), v, s2);
      s3 = hn::MulAdd(hn::LoadU(d, w3 + j), v, s3);
    }
    if (j < n) {
      const VF v = hn::LoadU(d, x + j);
      s0 = hn::MulAdd(LoadTail(w0 + j, n - j), v, s0);
      s1 = hn::MulAdd(LoadTail(w1 + j, n - j), v, s1);
      s2 = hn::MulAdd(LoadTail(w2 + j, n - j), v, s2);
      s3 = hn::MulAdd(LoadTail(w3 + j, n - j), v, s3);
    }
    SumFour(s0, s1, s2, s3, out + i);
  }
}

// out[i] = e^(sign u[i]) / Σ, with the largest exponent moved to 0.
HWY_INLINE void Softmax(const float* u, float sign, int64_t n, float* out) {
  const DF d;
  float high = sign * u[0];
  for (int64_t i = 1; i < n; ++i) high = std::max(high, sign * u[i]);
  VF sum = hn::Zero(d);
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF x = hn::Sub(hn::Mul(io.Load(u + i), hn::Set(d, sign)), hn::Set(d, high));
    io.Store(hn::Exp(d, x), out + i);
    sum = hn::Add(sum, io.Load(out + i));
  });
  const VF total = hn::Set(d, Sum(sum));
  ForVectors(
      n, [&](int64_t i, auto io) HWY_ATTR { io.Store(hn::Div(io.Load(out + i), total), out + i); });
}

// Floats of scratch that ComputeFeatures needs.
inline int64_t FeatureScratchFloats(const FeatureMap& map, int head_dim) {
  return RoundUpToLanes(head_dim) + RoundUpToLanes(map.projected_features()) + 16;
}

// φ of one vector x of n = head_dim values (projected_features when folded) into phi [features],
// with a map of linear_attention.h.
HWY_INLINE void ComputeFeatures(const FeatureMap& map, int64_t n, int group, bool query,
                                const float* x, float* phi, float* scratch) {
  const DF d;
  const int64_t k = map.features;
  const int64_t p = map.projected_features();
  const VF scale = hn::Set(d, query && !map.folded ? map.query_scale : 1.0F);
  if (map.kind == FeatureMapKind::kElu) {
    ForVectors(k, [&](int64_t i, auto io) HWY_ATTR {
      const VF v = hn::Mul(io.Load(x + i), scale);
      const VF below = hn::Exp(d, hn::Min(v, hn::Zero(d)));
      io.Store(hn::IfThenElse(hn::Gt(v, hn::Zero(d)), hn::Add(v, hn::Set(d, 1.0F)), below),
               phi + i);
    });
    return;
  }
  float* input = scratch;
  float* u = scratch + RoundUpToLanes(n);
  const float* projected = x;  // pre-activations
  if (!map.folded) {
    VF squares = hn::Zero(d);
    ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
      const VF v = hn::Mul(io.Load(x + i), scale);
      hn::StoreU(v, d, input + i);  // with the zeros behind a tail
      squares = hn::MulAdd(v, v, squares);
    });
    if (map.kind == FeatureMapKind::kRfa) {
      const VF norm = hn::Set(d, std::max(std::sqrt(Sum(squares)), 1e-12F));
      for (int64_t i = 0; i < n; i += kLanes) {
        hn::StoreU(hn::Div(hn::LoadU(d, input + i), norm), d, input + i);
      }
    }
    Project(map.weight + group * p * n, input, p, n, u);
    projected = u;
  }
  if (map.kind == FeatureMapKind::kT2r) {
    const float* bias = map.folded ? nullptr : map.bias + group * k;
    ForVectors(k, [&](int64_t i, auto io) HWY_ATTR {
      VF v = io.Load(projected + i);
      if (bias != nullptr) v = hn::Add(v, io.Load(bias + i));
      io.Store(hn::Max(v, hn::Zero(d)), phi + i);
    });
  } else if (map.kind == FeatureMapKind::kRfa) {
    const VF factor = hn::Set(d, 1.0F / std::sqrt(static_cast<float>(p)));
    ForVectors(p, [&](int64_t i, auto io) HWY_ATTR {
      const VF v = io.Load(projected + i);
      io.Store(hn::Mul(hn::Sin(d, v), factor), phi + i);
      io.Store(hn::Mul(hn::Cos(d, v), factor), phi + p + i);
    });
  } else {
    Softmax(projected, 1.0F, p, phi);
    Softmax(projected, -1.0F, p, phi + p);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();
#endif

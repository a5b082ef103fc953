// Norms, activations and rotary positions, one row at a time.
#include <cmath>

#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/row_kernels.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include "engine/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const DF d;
  VF squares = hn::Zero(d);
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF v = io.Load(x + i);
    squares = hn::MulAdd(v, v, squares);
  });
  const VF inverse = hn::Set(d, 1.0F / std::sqrt(Sum(squares) / static_cast<float>(n) + eps));
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    io.Store(hn::Mul(hn::Mul(io.Load(x + i), inverse), io.Load(weight + i)), out + i);
  });
}

void LayerNorm(const float* x, const float* weight, const float* bias, float eps, int64_t n,
               float* out) {
  const DF d;
  VF sum = hn::Zero(d);
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR { sum = hn::Add(sum, io.Load(x + i)); });
  const VF mean = hn::Set(d, Sum(sum) / static_cast<float>(n));
  VF squares = hn::Zero(d);
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    // The zeros behind a tail must not count as −mean.
    HWY_ALIGN float centred[kLanes] = {};
    io.Store(hn::Sub(io.Load(x + i), mean), centred);
    const VF v = hn::Load(d, centred);
    squares = hn::MulAdd(v, v, squares);
  });
  const VF inverse = hn::Set(d, 1.0F / std::sqrt(Sum(squares) / static_cast<float>(n) + eps));
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF v = hn::Mul(hn::Sub(io.Load(x + i), mean), inverse);
    io.Store(hn::MulAdd(v, io.Load(weight + i), io.Load(bias + i)), out + i);
  });
}

void SwiGlu(const float* gate, const float* up, int64_t n, float* out) {
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF g = io.Load(gate + i);
    io.Store(hn::Mul(TimesSigmoid(g, g), io.Load(up + i)), out + i);
  });
}

// x/2 (1 + tanh u) = x / (1 + e^−2u), which does not cancel where tanh nears −1.
void GeluTanh(float* x, int64_t n) {
  const DF d;
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF v = io.Load(x + i);
    const VF cubic = hn::MulAdd(hn::Mul(hn::Mul(v, v), hn::Set(d, 0.044715F)), v, v);
    io.Store(TimesSigmoid(v, hn::Mul(cubic, hn::Set(d, 1.5957691216057308F))), x + i);
  });
}

// x Φ(x) = x/2 erfc(−x/√2).
void Gelu(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= 0.5F * std::erfc(x[i] * -0.70710678F);
}

void Relu(float* x, int64_t n) {
  const DF d;
  ForVectors(n, [&](int64_t i, auto io)
                    HWY_ATTR { io.Store(hn::Max(io.Load(x + i), hn::Zero(d)), x + i); });
}

void Silu(float* x, int64_t n) {
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF v = io.Load(x + i);
    io.Store(TimesSigmoid(v, v), x + i);
  });
}

void Activate(ActivationKind kind, float* x, int64_t n) {
  switch (kind) {
    case ActivationKind::kGeluTanh:
      return GeluTanh(x, n);
    case ActivationKind::kGelu:
      return Gelu(x, n);
    case ActivationKind::kRelu:
      return Relu(x, n);
    case ActivationKind::kSilu:
      return Silu(x, n);
  }
}

void Rope(const float* cos_sin, int64_t n, int heads, int64_t head_dim, float* x) {
  for (int h = 0; h < heads; ++h, x += head_dim) {
    ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
      const VF a = io.Load(x + i);
      const VF b = io.Load(x + n + i);
      const VF c = io.Load(cos_sin + i);
      const VF s = io.Load(cos_sin + n + i);
      io.Store(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), x + i);
      io.Store(hn::MulAdd(b, c, hn::Mul(a, s)), x + n + i);
    });
  }
}

}  // namespace

const RowKernels* RowTable() {
  static const RowKernels kTable = {RmsNorm, LayerNorm, SwiGlu, Activate, Rope};
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(RowTable);
const RowKernels& ChooseRowKernels() { return *HWY_DYNAMIC_DISPATCH(RowTable)(); }
}  // namespace t2r
#endif

// Helpers of the vector kernels. Included once an instruction set, inside its namespace guards.
#if defined(T2R_ENGINE_OPS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef T2R_ENGINE_OPS_CPU_SIMD_INL_H_
#undef T2R_ENGINE_OPS_CPU_SIMD_INL_H_
#else
#define T2R_ENGINE_OPS_CPU_SIMD_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "engine/ops/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;
inline constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));

// Elements are float, bfloat16 as uint16_t, or 8-bit codes.
template <class D>
HWY_INLINE hn::Vec<D> LoadElements(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadElements(D d, const uint16_t* p) {
  const hn::Rebind<uint16_t, D> narrow;
  const hn::Rebind<uint32_t, D> wide;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(wide, hn::LoadU(narrow, p))));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadElements(D d, const int8_t* p) {
  const hn::Rebind<int8_t, D> narrow;
  const hn::Rebind<int32_t, D> wide;
  return hn::ConvertTo(d, hn::PromoteTo(wide, hn::LoadU(narrow, p)));
}
constexpr int64_t RoundUpToLanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// n < kLanes values, then zeros; reads nothing beyond them.
template <typename Element>
HWY_INLINE VF LoadTail(const Element* p, int64_t n) {
  HWY_ALIGN Element lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(Element));
  return LoadElements(DF(), lanes);
}
HWY_INLINE void StoreTail(VF v, float* p, int64_t n) {
  HWY_ALIGN float lanes[kLanes];
  hn::Store(v, DF(), lanes);
  std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

// Calls body(i, load, store) for the vectors of n values. A tail goes through the same vector code
// as the body, so an element's bits do not depend on where it lies.
struct FullVector {
  template <typename Element>
  HWY_INLINE VF Load(const Element* p) const {
    return LoadElements(DF(), p);
  }
  HWY_INLINE void Store(VF v, float* p) const { hn::StoreU(v, DF(), p); }
};
struct TailVector {
  int64_t n;
  template <typename Element>
  HWY_INLINE VF Load(const Element* p) const {
    return LoadTail(p, n);
  }
  HWY_INLINE void Store(VF v, float* p) const { StoreTail(v, p, n); }
};
template <typename Body>
HWY_INLINE void ForVectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, FullVector{});
  if (i < n) body(i, TailVector{n - i});
}

HWY_INLINE float Sum(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }

// x / (1 + e^−s); 0 for s < −87, where e^−s nears float32's end.
HWY_INLINE VF TimesSigmoid(VF x, VF s) {
  const DF d;
  const VF e = hn::Exp(d, hn::Min(hn::Neg(s), hn::Set(d, 87.0F)));
  const VF y = hn::Div(x, hn::Add(hn::Set(d, 1.0F), e));
  return hn::IfThenZeroElse(hn::Lt(s, hn::Set(d, -87.0F)), y);
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();
#endif

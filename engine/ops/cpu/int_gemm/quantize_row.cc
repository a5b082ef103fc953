// A row of activations as integers of one byte or two.
#include "engine/ops/cpu/int_gemm/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/int_gemm/quantize_row.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include "engine/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

using DI = hn::RebindToSigned<DF>;
constexpr int64_t kVectors = kQuantGroup / kLanes;

template <int kPlanes>
HWY_INLINE void QuantizeGroupOf(const float* x, int8_t* q) {
  const DF df;
  const DI di;
  const hn::Rebind<int8_t, DF> d8;
  VF values[kVectors];
  // Magnitudes compare as their bits do, and a NaN's are beyond infinity's: it is not lost.
  auto most = hn::Zero(di);
  for (int64_t i = 0; i < kVectors; ++i) {
    values[i] = hn::LoadU(df, x + i * kLanes);
    most = hn::Max(most, hn::BitCast(di, hn::Abs(values[i])));
  }
  const auto bits = static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(di, most)));
  const float largest = std::bit_cast<float>(bits);
  const bool zero = largest < 1e-30F;
  const VF inverse = hn::Set(df, zero ? 0.0F : 127.0F / largest);
  auto sum = hn::Zero(di);
  // The bounds matter beside what is not finite, and where a rest is exactly half.
  const auto bounded = [&](VF v) HWY_ATTR {
    return hn::Max(hn::Min(hn::NearestInt(v), hn::Set(di, 127)), hn::Set(di, -127));
  };
  for (int64_t i = 0; i < kVectors; ++i) {
    const VF scaled = hn::Mul(values[i], inverse);
    const auto upper = bounded(scaled);
    hn::StoreU(hn::DemoteTo(d8, upper), d8, q + i * kLanes);
    if constexpr (kPlanes == 1) {
      sum = hn::Add(sum, upper);
    } else {
      const VF rest = hn::Sub(scaled, hn::ConvertTo(df, upper));
      const auto lower = bounded(hn::Mul(rest, hn::Set(df, 256.0F)));
      sum = hn::Add(sum, hn::Add(hn::ShiftLeft<8>(upper), lower));
      hn::StoreU(hn::DemoteTo(d8, lower), d8, q + kQuantGroup + i * kLanes);
    }
  }
  const int32_t total = hn::GetLane(hn::SumOfLanes(di, sum));
  auto* group = reinterpret_cast<ActivationGroup*>(q + kPlanes * kQuantGroup);
  group->scale = zero ? 0.0F : largest / 127.0F * (kPlanes == 1 ? 1.0F : 0x1p-8F);
  group->offset = -kInt8Offset * total;
  group->scaled_sum = group->scale * static_cast<float>(total);
}

template <int kPlanes>
void QuantizeRow(const float* x, int64_t cols, int8_t* row) {
  for (; cols >= kQuantGroup; cols -= kQuantGroup) {
    QuantizeGroupOf<kPlanes>(x, row);
    x += kQuantGroup;
    row += GroupBytes(kPlanes);
  }
  if (cols == 0) return;
  HWY_ALIGN float last[kQuantGroup] = {};
  std::memcpy(last, x, static_cast<size_t>(cols) * sizeof(float));
  QuantizeGroupOf<kPlanes>(last, row);
}

}  // namespace

QuantizeRowFn QuantizeRowOf(int planes) { return planes == 1 ? QuantizeRow<1> : QuantizeRow<2>; }

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(QuantizeRowOf);
QuantizeRowFn ChooseQuantizeRow(int planes) { return HWY_DYNAMIC_DISPATCH(QuantizeRowOf)(planes); }
}  // namespace t2r
#endif

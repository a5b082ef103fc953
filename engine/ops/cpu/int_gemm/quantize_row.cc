// A row of activations as 8-bit integers.
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

HWY_INLINE void QuantizeGroupOf(const float* x, int8_t* q, ActivationGroup* group) {
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
  for (int64_t i = 0; i < kVectors; ++i) {
    // The bounds matter only beside what is not finite.
    const VF scaled =
        hn::Min(hn::Max(hn::Mul(values[i], inverse), hn::Set(df, -127.0F)), hn::Set(df, 127.0F));
    const auto code = hn::Min(hn::Max(hn::NearestInt(scaled), hn::Set(di, -127)), hn::Set(di, 127));
    sum = hn::Add(sum, code);
    hn::StoreU(hn::DemoteTo(d8, code), d8, q + i * kLanes);
  }
  const int32_t total = hn::GetLane(hn::SumOfLanes(di, sum));
  group->scale = zero ? 0.0F : largest / 127.0F;
  group->offset = -kInt8Offset * total;
  group->scaled_sum = group->scale * static_cast<float>(total);
}

void QuantizeRow(const float* x, int64_t cols, int8_t* q, ActivationGroup* groups) {
  const int64_t whole = cols / kQuantGroup;
  for (int64_t g = 0; g < whole; ++g) {
    QuantizeGroupOf(x + g * kQuantGroup, q + g * kQuantGroup, groups + g);
  }
  const int64_t rest = cols - whole * kQuantGroup;
  if (rest == 0) return;
  HWY_ALIGN float last[kQuantGroup] = {};
  std::memcpy(last, x + whole * kQuantGroup, static_cast<size_t>(rest) * sizeof(float));
  QuantizeGroupOf(last, q + whole * kQuantGroup, groups + whole);
}

}  // namespace

QuantizeRowFn QuantizeRowOf() { return QuantizeRow; }

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(QuantizeRowOf);
QuantizeRowFn ChooseQuantizeRow() { return HWY_DYNAMIC_DISPATCH(QuantizeRowOf)(); }
}  // namespace t2r
#endif

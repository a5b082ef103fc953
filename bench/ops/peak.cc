#include "bench/ops/peak.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/ops/peak.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;

}  // namespace

double Burn(int64_t rounds) {
  const DF d;
  VF sum[10];
  // The chains start apart, or the compiler would compute one for all.
  for (int i = 0; i < 10; ++i) sum[i] = hn::Set(d, static_cast<float>(rounds + i));
  const VF a = hn::Set(d, 0.999F);
  const VF b = hn::Set(d, 0.001F);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
    for (auto& s : sum) s = hn::MulAdd(s, a, b);
  }
  VF total = hn::Zero(d);
  for (const auto& s : sum) total = hn::Add(total, s);
  const bool finite = hn::GetLane(hn::SumOfLanes(d, total)) < 1e30F;
  return finite ? static_cast<double>(rounds) * 20 * static_cast<double>(hn::Lanes(d)) : 0.0;
}

float Read(const float* data, int64_t floats) {
  const DF d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  VF sum[8];
  for (auto& s : sum) s = hn::Zero(d);
  for (int64_t i = 0; i + 8 * n <= floats; i += 8 * n) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sum[j] = hn::Add(sum[j], hn::LoadU(d, data + i + j * n));
  }
  VF total = hn::Zero(d);
  for (const auto& s : sum) total = hn::Add(total, s);
  return hn::GetLane(hn::SumOfLanes(d, total));
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(Burn);
HWY_EXPORT(Read);
double BurnMultiplyAdds(int64_t rounds) { return HWY_DYNAMIC_DISPATCH(Burn)(rounds); }
float ReadAll(const float* data, int64_t floats) {
  return HWY_DYNAMIC_DISPATCH(Read)(data, floats);
}
}  // namespace t2r
#endif

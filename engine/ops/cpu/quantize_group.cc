// Candidates for a group's scale lie side by side in vectors, and the group's values are taken one
// after the other: so a candidate's sums are added up in the same order whatever a vector holds.
#include "engine/ops/cpu/quantize_group.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/quantize_group.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include "engine/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

// A sum over a group is kept in parts, value i in part i % kParts: the order of additions is part
// of the result.
constexpr int64_t kParts = 8;
template <class V>
HWY_INLINE V Total(const V* parts) {
  return hn::Add(hn::Add(hn::Add(parts[0], parts[4]), hn::Add(parts[1], parts[5])),
                 hn::Add(hn::Add(parts[2], parts[6]), hn::Add(parts[3], parts[7])));
}

// Calls code(w) for the group's vectors and stores the integers that it returns.
template <typename Code>
HWY_INLINE void StoreCodes(const float* w, const Code& code, uint8_t* codes) {
  const DF d;
  const hn::Rebind<uint8_t, DF> d8;
  for (int64_t i = 0; i < kQuantGroup; i += kLanes) {
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(code(hn::Load(d, w + i)))), d8, codes + i);
  }
}

// ---- int8 ----

// Neighbouring scales round a group in ways that have nothing to do with each other: the best of
// these leaves about a quarter less error than the first.
constexpr int kFiner = 1;
constexpr int kCoarser = 10;
constexpr int64_t kScales = kFiner + 1 + kCoarser;
constexpr int64_t kScaleLanes = 16;  // whole vectors of them
static_assert(kScales <= kScaleLanes && kScaleLanes % kLanes == 0);

// The nearest integer in −127 … 127 to w / scale, ties to even.
HWY_INLINE VF Int8Code(VF w, VF inverse) {
  const DF d;
  // Added and taken off again, it leaves an integer.
  const VF rounder = hn::Set(d, 0x1.8p23F);
  const VF cut = hn::Min(hn::Max(hn::Mul(w, inverse), hn::Set(d, -127.0F)), hn::Set(d, 127.0F));
  return hn::Sub(hn::Add(cut, rounder), rounder);
}

// The squared errors of a group in 8 bits, of every scale.
HWY_INLINE void Int8Errors(const float* w, const float* scales, float* errors) {
  const DF d;
  for (int64_t first = 0; first < kScales; first += kLanes) {
    const VF scale = hn::Load(d, scales + first);
    const VF inverse = hn::Div(hn::Set(d, 1.0F), scale);
    const auto square = [&](int64_t i) HWY_ATTR {
      const VF value = hn::Set(d, w[i]);
      const VF error = hn::Sub(hn::Mul(scale, Int8Code(value, inverse)), value);
      return hn::Mul(error, error);
    };
    VF parts[kParts];
    for (int64_t j = 0; j < kParts; ++j) {
      parts[j] = hn::Add(hn::Add(square(j), square(j + kParts)),
                         hn::Add(square(j + 2 * kParts), square(j + 3 * kParts)));
    }
    hn::Store(Total(parts), d, errors + first);
  }
}

// w: kQuantGroup values, zeros behind the last.
QuantizedGroup QuantizeInt8(const float* w) {
  const DF d;
  QuantizedGroup group;
  VF magnitude = hn::Zero(d);
  for (int64_t i = 0; i < kQuantGroup; i += kLanes) {
    magnitude = hn::Max(magnitude, hn::Abs(hn::Load(d, w + i)));
  }
  const float most = hn::GetLane(hn::MaxOfLanes(d, magnitude));
  if (most < kConstantGroup) {
    group.codes.fill(kInt8Offset);
    return group;
  }
  const int whole = BFloat16NotLess(most / 127.0F);
  const float whole_scale = BFloat16ToFloat(static_cast<uint16_t>(whole));
  HWY_ALIGN float scales[kScaleLanes];
  for (int i = 0; i < kScaleLanes; ++i) {
    // The whole one first, then the finer, then the coarser.
    const int bits = whole + (i <= kFiner ? -i : i - kFiner);
    const float scale = BFloat16ToFloat(static_cast<uint16_t>(bits));
    scales[i] = std::isfinite(127.0F * scale) ? scale : whole_scale;
  }
  HWY_ALIGN float errors[kScaleLanes];
  Int8Errors(w, scales, errors);
  // Errors are not negative, so they compare as their bits do; of equal ones the first scale's.
  uint64_t least = ~uint64_t{0};
  for (uint64_t i = 0; i < kScales; ++i) {
    least = std::min(least, uint64_t{std::bit_cast<uint32_t>(errors[i])} << 32 | i);
  }
  const auto best = static_cast<uint32_t>(least);
  const VF inverse = hn::Set(d, 1.0F / scales[best]);
  StoreCodes(
      w,
      [&](VF values) HWY_ATTR {
        return hn::Add(Int8Code(values, inverse), hn::Set(d, static_cast<float>(kInt8Offset)));
      },
      group.codes.data());
  group.scale = FloatToBFloat16(scales[best]);
  return group;
}

// ---- int4 ----

using DL = hn::CappedTag<float, 8>;  // of scales with their minimums
using VL = hn::Vec<DL>;
constexpr auto kLineLanes = static_cast<int64_t>(hn::MaxLanes(DL()));
constexpr int64_t kLines = 8;
static_assert(kLines % kLineLanes == 0);

// The nearest of 0 … 15 to (w − minimum) / scale.
template <class D>
HWY_INLINE hn::Vec<D> Int4Code(D d, hn::Vec<D> w, hn::Vec<D> minimum, hn::Vec<D> inverse) {
  const auto code = hn::Mul(hn::Sub(w, minimum), inverse);
  const auto cut = hn::Min(hn::Max(code, hn::Zero(d)), hn::Set(d, 15.0F));
  return hn::Floor(hn::Add(cut, hn::Set(d, 0.5F)));
}

struct Int4Group {
  HWY_ALIGN float w[kQuantGroup] = {};
  HWY_ALIGN float weight[kQuantGroup] = {};  // 1 of a value, 0 behind the last
  int64_t count;
};

// Up to kLines scales with their minimums, all of which can be used.
struct Int4Lines {
  void Add(uint16_t scale, uint16_t minimum) {
    const float s = BFloat16ToFloat(scale);
    const float m = BFloat16ToFloat(minimum);
    if (!(s >= kConstantGroup) || !std::isfinite(s) || !std::isfinite(m)) return;
    scales[count] = s;
    minimums[count] = m;
    ++count;
  }

  int count = 0;
  HWY_ALIGN float scales[kLines] = {};
  HWY_ALIGN float minimums[kLines] = {};
};

// The squared errors of a group in 4 bits, of every line; what stands behind the last is no number.
HWY_INLINE void Int4Errors(const Int4Group& group, const Int4Lines& lines, float* errors) {
  const DL d;
  for (int64_t first = 0; first < lines.count; first += kLineLanes) {
    const VL scale = hn::Load(d, lines.scales + first);
    const VL minimum = hn::Load(d, lines.minimums + first);
    const VL inverse = hn::Div(hn::Set(d, 1.0F), scale);
    VL parts[kParts];
    for (int64_t j = 0; j < kParts; ++j) {
      VL part = hn::Zero(d);
      for (int64_t i = j; i < kQuantGroup; i += kParts) {
        const VL w = hn::Set(d, group.w[i]);
        const VL code = Int4Code(d, w, minimum, inverse);
        const VL error = hn::Sub(hn::Add(hn::Mul(scale, code), minimum), w);
        part = hn::Add(part, hn::Mul(hn::Set(d, group.weight[i]), hn::Mul(error, error)));
      }
      parts[j] = part;
    }
    hn::Store(Total(parts), d, errors + first);
  }
}

// Adds the least squares lines through the codes that six scales about the range's 15th give.
HWY_INLINE void Fit(const Int4Group& group, float low, float high, Int4Lines* lines) {
  constexpr int kFits = 6;
  constexpr float kSteps[kLines] = {13.0F, 13.75F, 14.5F, 15.0F, 15.75F, 16.5F, 15.0F, 15.0F};
  const DL d;
  const VL n = hn::Set(d, static_cast<float>(group.count));
  HWY_ALIGN float scales[kLines];
  HWY_ALIGN float minimums[kLines];
  for (int i = 0; i < kLines; ++i) {
    scales[i] = (high - low) / kSteps[i];
    minimums[i] = (low + high) / 2 - 7.5F * scales[i];
  }
  HWY_ALIGN float spreads[kLines];
  HWY_ALIGN float slopes[kLines];
  HWY_ALIGN float starts[kLines];
  for (int64_t first = 0; first < kFits; first += kLineLanes) {
    const VL minimum = hn::Load(d, minimums + first);
    const VL inverse = hn::Div(hn::Set(d, 1.0F), hn::Load(d, scales + first));
    VL c[kParts];
    VL v[kParts];
    VL cc[kParts];
    VL cv[kParts];
    for (int64_t j = 0; j < kParts; ++j) {
      c[j] = v[j] = cc[j] = cv[j] = hn::Zero(d);
      for (int64_t i = j; i < kQuantGroup; i += kParts) {
        const VL w = hn::Set(d, group.w[i]);
        const VL code = hn::Mul(Int4Code(d, w, minimum, inverse), hn::Set(d, group.weight[i]));
        c[j] = hn::Add(c[j], code);
        v[j] = hn::Add(v[j], w);
        cc[j] = hn::Add(cc[j], hn::Mul(code, code));
        cv[j] = hn::Add(cv[j], hn::Mul(code, w));
      }
    }
    const VL codes = Total(c);
    const VL values = Total(v);
    const VL spread = hn::Sub(hn::Mul(n, Total(cc)), hn::Mul(codes, codes));
    const VL slope = hn::Div(hn::Sub(hn::Mul(n, Total(cv)), hn::Mul(codes, values)), spread);
    hn::Store(spread, d, spreads + first);
    hn::Store(slope, d, slopes + first);
    hn::Store(hn::Div(hn::Sub(values, hn::Mul(slope, codes)), n), d, starts + first);
  }
  for (int i = 0; i < kFits; ++i) {
    if (!(scales[i] >= kConstantGroup) || !(spreads[i] > 0) || !(slopes[i] > 0)) continue;
    lines->Add(FloatToBFloat16(slopes[i]), FloatToBFloat16(starts[i]));
  }
}

QuantizedGroup QuantizeInt4(const float* values, int64_t count) {
  const DF d;
  Int4Group group;
  group.count = count;
  std::copy_n(values, count, group.w);
  std::fill_n(group.weight, count, 1.0F);
  std::fill(group.w + count, group.w + kQuantGroup, values[0]);
  VF least = hn::Load(d, group.w);
  VF most = least;
  for (int64_t i = kLanes; i < kQuantGroup; i += kLanes) {
    least = hn::Min(least, hn::Load(d, group.w + i));
    most = hn::Max(most, hn::Load(d, group.w + i));
  }
  std::fill(group.w + count, group.w + kQuantGroup, 0.0F);
  float low = hn::GetLane(hn::MinOfLanes(d, least));
  if (low == 0) low = *std::find(values, values + count, 0.0F);  // its sign is that of the first
  const float high = hn::GetLane(hn::MaxOfLanes(d, most));
  Int4Lines lines;
  // Rounded outwards, so that 15 steps reach both ends.
  const uint16_t minimum = BFloat16NotGreater(low);
  const float range = high - BFloat16ToFloat(minimum);
  if (range >= kConstantGroup && std::isfinite(range)) {
    lines.Add(BFloat16NotLess(range / 15.0F), minimum);
    if (high - low >= kConstantGroup) Fit(group, low, high, &lines);
  } else {
    // Values that are all about zero, or so far apart that their range is no float32.
    const float magnitude = std::max(std::abs(low), std::abs(high));
    if (magnitude >= kConstantGroup) {
      lines.Add(BFloat16NotLess(magnitude / 7.5F), FloatToBFloat16(-magnitude));
    }
  }
  QuantizedGroup out;
  if (lines.count == 0) return out;
  HWY_ALIGN float errors[kLines];
  Int4Errors(group, lines, errors);
  int best = 0;
  for (int i = 1; i < lines.count; ++i) {
    if (errors[i] < errors[best]) best = i;
  }
  const VF start = hn::Set(d, lines.minimums[best]);
  const VF inverse = hn::Set(d, 1.0F / lines.scales[best]);
  StoreCodes(
      group.w, [&](VF w) HWY_ATTR { return Int4Code(d, w, start, inverse); }, out.codes.data());
  std::fill(out.codes.begin() + count, out.codes.end(), uint8_t{0});
  out.scale = FloatToBFloat16(lines.scales[best]);
  out.minimum = FloatToBFloat16(lines.minimums[best]);
  return out;
}

QuantizedGroup QuantizeGroupOf(const float* values, int64_t count, DType dtype) {
  if (dtype == DType::kInt4) return QuantizeInt4(values, count);
  HWY_ALIGN float w[kQuantGroup] = {};
  std::copy_n(values, count, w);
  return QuantizeInt8(w);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(QuantizeGroupOf);
QuantizedGroup QuantizeGroup(const float* values, int64_t count, DType dtype) {
  return HWY_DYNAMIC_DISPATCH(QuantizeGroupOf)(values, count, dtype);
}
}  // namespace t2r
#endif

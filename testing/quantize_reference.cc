#include "testing/quantize_reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

namespace t2r::testing {
namespace {

constexpr auto kGroup = static_cast<size_t>(kQuantGroup);
// Sums over a group are kept in as many parts as a vector has lanes, so that compilers may use one:
// the order of additions is part of the result.
constexpr size_t kParts = 8;
float Total(const std::array<float, kParts>& parts) {
  return ((parts[0] + parts[4]) + (parts[1] + parts[5])) +
         ((parts[2] + parts[6]) + (parts[3] + parts[7]));
}

// A group in 8 bits by one scale: its codes, about zero, and its squared error.
struct Int8Try {
  std::array<float, kGroup> codes;
  float error;
};

void TryInt8(const std::array<float, kGroup>& values, float scale, Int8Try* made) {
  // Added and taken off again, it leaves the nearest integer, ties to even.
  constexpr float kRounder = 0x1.8p23F;
  const float inverse = 1.0F / scale;
  std::array<float, kGroup> squares;
  for (size_t i = 0; i < kGroup; ++i) {
    const float code = std::min(std::max(values[i] * inverse, -127.0F), 127.0F) + kRounder;
    made->codes[i] = code - kRounder;
    const float error = scale * made->codes[i] - values[i];
    squares[i] = error * error;
  }
  std::array<float, kParts> parts;
  for (size_t j = 0; j < kParts; ++j) {
    parts[j] =
        (squares[j] + squares[j + kParts]) + (squares[j + 2 * kParts] + squares[j + 3 * kParts]);
  }
  made->error = Total(parts);
}

QuantizedGroup QuantizeInt8(const float* values, int64_t count) {
  QuantizedGroup group;
  group.codes.fill(kInt8Offset);
  std::array<float, kGroup> padded = {};
  std::copy_n(values, count, padded.begin());
  float most = 0;
  for (const float value : padded) most = std::max(most, std::abs(value));
  if (most < kConstantGroup) return group;
  // Neighbouring scales round a group in ways that have nothing to do with each other: the best of
  // these leaves about a quarter less error than the first.
  constexpr int kFiner = 1;
  constexpr int kCoarser = 10;
  const int whole = BFloat16NotLess(most / 127.0F);
  Int8Try best;
  Int8Try other;
  TryInt8(padded, BFloat16ToFloat(static_cast<uint16_t>(whole)), &best);
  group.scale = static_cast<uint16_t>(whole);
  for (int bits = whole - kFiner; bits <= whole + kCoarser; ++bits) {
    const float scale = BFloat16ToFloat(static_cast<uint16_t>(bits));
    if (bits == whole || !std::isfinite(127.0F * scale)) continue;
    TryInt8(padded, scale, &other);
    if (!(other.error < best.error)) continue;
    std::swap(best, other);
    group.scale = static_cast<uint16_t>(bits);
  }
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    group.codes[i] = static_cast<uint8_t>(static_cast<int>(best.codes[i]) + kInt8Offset);
  }
  return group;
}

// A group of int4 on its way: values beyond the count weigh nothing.
class Int4Search {
 public:
  Int4Search(const float* values, int64_t count) : count_(count) {
    std::copy_n(values, count, w_.begin());
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) weight_[i] = 1;
    const auto [low, high] = std::minmax_element(values, values + count);
    low_ = *low;
    high_ = *high;
  }

  QuantizedGroup Best() {
    // Rounded outwards, so that 15 steps reach both ends.
    const uint16_t minimum = BFloat16NotGreater(low_);
    const float range = high_ - BFloat16ToFloat(minimum);
    if (!(range >= kConstantGroup) || !std::isfinite(range)) return Halves();
    Try(BFloat16NotLess(range / 15.0F), minimum);
    if (high_ - low_ < kConstantGroup) return best_;
    for (const float steps : {13.0F, 13.75F, 14.5F, 15.0F, 15.75F, 16.5F}) {
      const float scale = (high_ - low_) / steps;
      Fit(scale, (low_ + high_) / 2 - 7.5F * scale);
    }
    return best_;
  }

 private:
  // Of values that are all about zero, or so far apart that their range is no float32.
  QuantizedGroup Halves() {
    const float most = std::max(std::abs(low_), std::abs(high_));
    if (most < kConstantGroup) return best_;
    Try(BFloat16NotLess(most / 7.5F), FloatToBFloat16(-most));
    return best_;
  }

  void Encode(float scale, float minimum) {
    const float inverse = 1.0F / scale;
    for (size_t i = 0; i < kGroup; ++i) {
      const float code = std::min(std::max((w_[i] - minimum) * inverse, 0.0F), 15.0F);
      const float up = code + 0.5F;  // whose integer part is the nearest code
      codes_[i] = static_cast<float>(static_cast<int>(up));
    }
  }

  void Try(uint16_t scale_bits, uint16_t minimum_bits) {
    const float scale = BFloat16ToFloat(scale_bits);
    const float minimum = BFloat16ToFloat(minimum_bits);
    if (!(scale >= kConstantGroup) || !std::isfinite(scale) || !std::isfinite(minimum)) return;
    Encode(scale, minimum);
    std::array<float, kParts> parts = {};
    for (size_t first = 0; first < kGroup; first += kParts) {
      for (size_t j = 0; j < kParts; ++j) {
        const float error = scale * codes_[first + j] + minimum - w_[first + j];
        parts[j] += weight_[first + j] * (error * error);
      }
    }
    const float error = Total(parts);
    if (found_ && !(error < error_)) return;
    found_ = true;
    error_ = error;
    best_.scale = scale_bits;
    best_.minimum = minimum_bits;
    for (size_t i = 0; i < static_cast<size_t>(count_); ++i) {
      best_.codes[i] = static_cast<uint8_t>(codes_[i]);
    }
  }

  // The least squares line through the codes of that scale and minimum.
  void Fit(float scale, float minimum) {
    if (!(scale >= kConstantGroup)) return;
    Encode(scale, minimum);
    std::array<float, kParts> c = {}, w = {}, cc = {}, cw = {};
    for (size_t first = 0; first < kGroup; first += kParts) {
      for (size_t j = 0; j < kParts; ++j) {
        const float code = codes_[first + j] * weight_[first + j];
        const float value = w_[first + j];
        c[j] += code;
        w[j] += value;
        cc[j] += code * code;
        cw[j] += code * value;
      }
    }
    const auto n = static_cast<float>(count_);
    const float codes = Total(c);
    const float values = Total(w);
    const float spread = n * Total(cc) - codes * codes;
    if (!(spread > 0)) return;
    const float slope = (n * Total(cw) - codes * values) / spread;
    if (!(slope > 0)) return;
    Try(FloatToBFloat16(slope), FloatToBFloat16((values - slope * codes) / n));
  }

  int64_t count_;
  std::array<float, kGroup> w_ = {};
  std::array<float, kGroup> weight_ = {};  // 1 of a value, 0 behind the last
  std::array<float, kGroup> codes_ = {};
  float low_ = 0;
  float high_ = 0;
  bool found_ = false;
  float error_ = 0;
  QuantizedGroup best_;
};

}  // namespace

QuantizedGroup ReferenceQuantizeGroup(const float* values, int64_t count, DType dtype) {
  if (dtype == DType::kInt8) return QuantizeInt8(values, count);
  return Int4Search(values, count).Best();
}

}  // namespace t2r::testing

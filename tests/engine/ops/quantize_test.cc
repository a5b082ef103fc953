// Quantising a group of weights: how far the values are from what they stood for, and the same bits
// on every instruction set.
#include "engine/ops/quantize.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "engine/ops/cpu/quantize_group.h"
#include "testing/quantize_reference.h"

namespace t2r::testing {
namespace {

// The value that a group's code stands for, exactly.
double Exact(const QuantizedGroup& group, DType dtype, size_t i) {
  const double scale = BFloat16ToFloat(group.scale);
  if (dtype == DType::kInt8) return scale * (group.codes[i] - kInt8Offset);
  return scale * group.codes[i] + BFloat16ToFloat(group.minimum);
}

std::vector<std::vector<float>> Groups() {
  std::mt19937_64 rng(7);
  std::vector<std::vector<float>> groups;
  for (const int64_t count : {1, 2, 5, 31, 32}) {
    for (const double scale : {1.0, 1e-6, 1e6}) {
      for (const double centre : {0.0, 3.0, -40.0}) {
        std::normal_distribution<double> normal(centre * scale, scale);
        std::vector<float> values(static_cast<size_t>(count));
        for (float& v : values) v = static_cast<float>(normal(rng));
        groups.push_back(values);
      }
    }
  }
  groups.push_back(std::vector<float>(32, 0.3F));  // constant
  std::vector<float> outlier(32, 1e-3F);
  outlier[9] = -5;
  groups.push_back(outlier);
  return groups;
}

TEST(QuantizeTest, Int8IsNoWorseThanHalfAStepOfASymmetricRange) {
  for (const std::vector<float>& values : Groups()) {
    const auto group =
        QuantizeGroup(values.data(), static_cast<int64_t>(values.size()), DType::kInt8);
    double most = 0;
    for (const float v : values) most = std::max(most, std::abs(static_cast<double>(v)));
    const double scale = BFloat16ToFloat(group.scale);
    // max/127 rounded up to 8 significant bits, or the one below or one of ten above; the codes'
    // own rounding is that of 127 in float32.
    EXPECT_GE(scale, most / 127 * (1 - 0x1p-7));
    EXPECT_LE(scale, most / 127 * (1 + 11 * 0x1p-7));
    double squares = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double error = Exact(group, DType::kInt8, i) - values[i];
      squares += error * error;
      EXPECT_LE(std::abs(error), scale * (1 + 0x1p-15));
      EXPECT_GE(group.codes[i], 1);
    }
    const double half = most / 127 * (1 + 0x1p-7) / 2;
    EXPECT_LE(squares, static_cast<double>(values.size()) * half * half * 1.001);
    for (size_t i = values.size(); i < group.codes.size(); ++i) {
      EXPECT_EQ(group.codes[i], kInt8Offset);
    }
  }
}

TEST(QuantizeTest, Int4IsNoWorseThanFifteenStepsOverTheRange) {
  for (const std::vector<float>& values : Groups()) {
    const auto group =
        QuantizeGroup(values.data(), static_cast<int64_t>(values.size()), DType::kInt4);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    // The range that a minimum rounded down to 8 bits leaves, its 15th rounded up likewise.
    const double range = static_cast<double>(*high) - *low + std::abs(*low) * 0x1p-7;
    const double step = range / 15 * (1 + 0x1p-7);
    double squares = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double error = Exact(group, DType::kInt4, i) - values[i];
      squares += error * error;
      EXPECT_LE(group.codes[i], 15);
    }
    const double bound = static_cast<double>(values.size()) * step * step / 4;
    EXPECT_LE(squares, bound * 1.001)
        << values.size() << " values from " << *low << " to " << *high;
  }
}

// A step of max/127 would leave a twelfth of its square a value.
TEST(QuantizeTest, Int8GainsFromTryingScales) {
  std::mt19937_64 rng(9);
  std::normal_distribution<double> normal(0, 1);
  double searched = 0;
  double plain = 0;
  for (int n = 0; n < 1000; ++n) {
    std::vector<float> values(32);
    for (float& v : values) v = static_cast<float>(normal(rng));
    const auto group = QuantizeGroup(values.data(), 32, DType::kInt8);
    double most = 0;
    for (const float v : values) most = std::max(most, std::abs(static_cast<double>(v)));
    for (size_t i = 0; i < values.size(); ++i) {
      searched += std::pow(Exact(group, DType::kInt8, i) - values[i], 2);
      plain += most / 127 * most / 127 / 12;
    }
  }
  EXPECT_LT(searched, 0.85 * plain);
}

// A search that found nothing better than the range's ends would leave this error.
TEST(QuantizeTest, Int4GainsFromFittingItsRange) {
  std::mt19937_64 rng(8);
  std::normal_distribution<double> normal(0, 1);
  double fitted = 0;
  double ends = 0;
  for (int n = 0; n < 1000; ++n) {
    std::vector<float> values(32);
    for (float& v : values) v = static_cast<float>(normal(rng));
    const auto group = QuantizeGroup(values.data(), 32, DType::kInt4);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const double step = (*high - *low) / 15.0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double plain = *low + step * std::round((values[i] - *low) / step);
      ends += std::pow(plain - values[i], 2);
      fitted += std::pow(Exact(group, DType::kInt4, i) - values[i], 2);
    }
  }
  EXPECT_LT(fitted, 0.87 * ends);
}

std::vector<std::vector<float>> Extremes() {
  return {{0, 0, 0},      {1e-38F, -1e-38F}, {3e38F, -3e38F},
          {3e38F, 3e38F}, {-1e-45F},         {1e30F, 1e-30F}};
}

TEST(QuantizeTest, ExtremesStayFinite) {
  for (const std::vector<float>& values : Extremes()) {
    for (const DType dtype : {DType::kInt8, DType::kInt4}) {
      const auto group = QuantizeGroup(values.data(), static_cast<int64_t>(values.size()), dtype);
      for (size_t i = 0; i < values.size(); ++i) {
        const double value = Exact(group, dtype, i);
        EXPECT_TRUE(std::isfinite(value));
        EXPECT_LE(std::abs(value), 3.4e38 * 1.1);
      }
    }
  }
}

// So many groups that in some of them candidates are as good as each other but for the order in
// which sums are added up.
TEST(QuantizeTest, EveryInstructionSetGivesTheReferencesBits) {
  std::vector<std::vector<float>> groups = Extremes();
  for (const std::vector<float>& values : Groups()) groups.push_back(values);
  // Of zeros of both signs the first is the minimum.
  for (const float zero : {0.0F, -0.0F}) {
    std::vector<float> values(32, -zero);
    values[31] = 15;
    std::fill_n(values.begin(), 3, zero);
    groups.push_back(values);
    std::fill_n(values.begin(), 2, 3.0F);
    groups.push_back(values);
  }
  std::mt19937_64 rng(10);
  std::normal_distribution<float> normal(0, 1);
  std::uniform_int_distribution<size_t> counts(1, 32);
  std::uniform_real_distribution<float> exponents(-100, 126);
  for (int n = 0; n < 100000; ++n) {
    std::vector<float> values(n % 2 == 0 ? 32 : counts(rng));
    const float scale = n % 3 == 0 ? std::exp2(exponents(rng)) : 1;
    for (float& v : values) {
      v = normal(rng) * scale;
      if (n % 5 == 0) v = BFloat16ToFloat(FloatToBFloat16(v));
      if (n % 7 == 0) v = std::abs(v);
      v = std::clamp(v, -3e38F, 3e38F);
    }
    groups.push_back(values);
  }
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    std::vector<QuantizedGroup> references;
    for (const std::vector<float>& values : groups) {
      references.push_back(
          ReferenceQuantizeGroup(values.data(), static_cast<int64_t>(values.size()), dtype));
    }
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      const struct AllTargetsAgain {
        ~AllTargetsAgain() { hwy::SetSupportedTargetsForTest(0); }
      } at_the_end;
      SCOPED_TRACE(std::string(hwy::TargetName(target)) + ", " + NameOf(dtype));
      hwy::SetSupportedTargetsForTest(target);
      for (size_t g = 0; g < groups.size(); ++g) {
        const auto count = static_cast<int64_t>(groups[g].size());
        const auto group = QuantizeGroup(groups[g].data(), count, dtype);
        ASSERT_EQ(group.scale, references[g].scale) << "group " << g;
        ASSERT_EQ(group.minimum, references[g].minimum) << "group " << g;
        ASSERT_EQ(group.codes, references[g].codes) << "group " << g;
      }
    }
  }
}

TEST(QuantizeTest, BytesCountCodesScalesAndMinimums) {
  EXPECT_EQ(MatrixBytes(3, 64, DType::kInt8), 3 * (64 + 2 * 2));
  EXPECT_EQ(MatrixBytes(3, 64, DType::kInt4), 3 * (32 + 2 * 4));
  EXPECT_EQ(MatrixBytes(3, 33, DType::kInt4), 3 * (32 + 2 * 4));
  EXPECT_EQ(MatrixBytes(3, 33, DType::kBFloat16), 3 * 33 * 2);
}

}  // namespace
}  // namespace t2r::testing

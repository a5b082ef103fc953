// Products with weights in 8 and 4 bits, and looking rows up in them, with activations of one byte
// and of two: on the instruction sets that this machine runs, and on the twins of those that it may
// not. On a device also with weights and activations in fp8.
#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <string_view>
#include <tuple>

#include "engine/ops/cpu/quantize_group.h"
#include "engine/ops/quantize.h"
#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

// Groups along K are the CPU's; on a device a row has one scale, and fp8 is in int4's place.
bool OnDevice() { return ChosenBackend() == "cuda"; }
std::vector<DType> Quantized() {
  if (OnDevice()) return {DType::kInt8, DType::kFloat8};
  return {DType::kInt8, DType::kInt4};
}

// The nearest number of e4m3, ties to even: 3 bits of fraction from 2⁻⁶ on, steps of 2⁻⁹ below.
double Float8Of(float value) {
  const double magnitude = std::min(std::abs(double{value}), 448.0);
  const double exponent = std::max(-6.0, std::floor(std::log2(std::max(magnitude, 1e-30))));
  const double step = std::exp2(exponent - 3);
  return std::copysign(std::nearbyint(magnitude / step) * step, value);
}

// A row in fp8: what each number is kept as, times the row's scale of largest / 448.
std::vector<double> InFloat8(const Mat& m, int64_t row) {
  float most = 0;
  for (int64_t i = 0; i < m.cols; ++i) {
    most = std::max(most, std::abs(static_cast<float>(m.at(row, i))));
  }
  std::vector<double> kept(static_cast<size_t>(m.cols));
  const float scale = most / 448, inverse = 448 / most;
  for (int64_t i = 0; i < m.cols && most >= 1e-30F; ++i) {
    kept[static_cast<size_t>(i)] =
        double{scale} * Float8Of(static_cast<float>(m.at(row, i)) * inverse);
  }
  return kept;
}

int64_t GroupOf(int64_t cols) { return OnDevice() ? cols : kQuantGroup; }

BackendCase CaseOf(const std::string& name, const IntGemmKernels& set, int threads,
                   RowRounding rows) {
  BackendCase made;
  made.name = name + (rows == RowRounding::kInt8 ? "OneByte" : "");
  made.options.name = "cpu";
  made.options.threads = threads;
  made.options.rows = rows;
  made.int_gemm = &set;
  return made;
}

std::vector<BackendCase> Cases() {
  if (OnDevice()) return AllBackends();
  std::vector<BackendCase> cases;
  for (const RowRounding rows : {RowRounding::kNone, RowRounding::kInt8}) {
    bool best = true;
    for (const IntGemmKernels& set : IntGemmSets()) {
      if (!set.supported()) continue;
      std::string name;
      for (const char c : std::string(set.name)) {
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) name += c;
      }
      if (best) cases.push_back(CaseOf(name + "2Threads", set, 2, rows));
      best = false;
      cases.push_back(CaseOf(name, set, 1, rows));
    }
    // Activations become integers in Highway's code, which must give the same bits on each of its
    // sets.
    const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
    for (size_t i = 1; i < targets.size(); ++i) {
      const std::string name = std::string("Rows") + hwy::TargetName(targets[i]);
      cases.push_back(CaseOf(name, ChooseIntGemm(), 1, rows));
      cases.back().target = targets[i];
    }
  }
  return cases;
}

TEST(IntGemmSetsTest, SaysWhichRunHere) {
  for (const IntGemmKernels& set : IntGemmSets()) {
    std::cout << set.name
              << (set.supported() ? " runs here\n" : " does not run here: see its twin\n");
  }
  EXPECT_TRUE(ChooseIntGemm().supported());
  EXPECT_FALSE(ChooseIntGemm().twin);
}

// Of max|x| = 127 a code is the value: halves go to the even one, and what the first byte leaves is
// the second's, in 256ths, cut at 127.
TEST(IntGemmSetsTest, TilesLeaveFewRowsToTheSetThatCountsThem) {
  const auto sets = IntGemmSets();
  const auto find = [&](std::string_view name) {
    return std::find_if(sets.begin(), sets.end(),
                        [&](const auto& set) { return name == set.name; });
  };
  const auto tiles = find("AMX-INT8");
  const auto rest = find("AVX512-VNNI");
  if (tiles == sets.end() || rest == sets.end()) GTEST_SKIP() << "not compiled for this processor";
  EXPECT_EQ(tiles->panels.few_rows, rest->panels.few_rows);
  EXPECT_EQ(tiles->panels.few, rest->panels.few);
  EXPECT_EQ(tiles->panels.many, rest->panels.many);
  const auto twin = find("twin of AMX-INT8");
  ASSERT_NE(twin, sets.end());
  EXPECT_EQ(twin->panels.few_rows, tiles->panels.few_rows);
  EXPECT_EQ(twin->panels.few, tiles->panels.few);
  EXPECT_EQ(twin->panels.many, tiles->panels.many);
  EXPECT_EQ(twin->panels.share_rows, tiles->panels.share_rows);
}

TEST(IntGemmSetsTest, RowsAreRoundedToNearestEven) {
  const std::vector<float> x = {127, 0.5F, 1.5F, -0.5F, -2.5F, 100.25F, -126.625F, 0, 1};
  const std::vector<int> one = {127, 0, 2, 0, -2, 100, -127, 0, 1};
  const std::vector<int> rest = {0, 127, -128, -128, -128, 64, 96, 0, 0};
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    for (const int planes : {1, 2}) {
      const int64_t bytes = GroupBytes(planes);
      alignas(16) std::array<int8_t, GroupBytes(2) + 1> q;
      q.fill(55);
      ChooseQuantizeRow(planes)(x.data(), static_cast<int64_t>(x.size()), q.data());
      const auto& group =
          *reinterpret_cast<const ActivationGroup*>(q.data() + planes * kQuantGroup);
      int total = 0;
      for (size_t i = 0; i < kQuantGroup; ++i) {
        const bool inside = i < x.size();
        EXPECT_EQ(q[i], inside ? one[i] : 0) << i;
        total += q[i];
        if (planes == 1) continue;
        const int second = q[i + kQuantGroup];
        EXPECT_EQ(second, inside ? std::max(rest[i], -127) : 0) << i;
        total += 255 * q[i] + second;
      }
      EXPECT_EQ(q[bytes], 55) << "written beyond the row";
      EXPECT_EQ(group.scale, planes == 1 ? 1.0F : 0x1p-8F);
      EXPECT_EQ(group.offset, -kInt8Offset * total);
      EXPECT_EQ(group.scaled_sum, group.scale * static_cast<float>(total));
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

// A weight, and what its quantised form stands for.
struct Weight {
  Mat exact;  // as given, float32 values
  Mat value;  // ŵ, exactly
  Mat terms;  // |s q| + |m|: what a product's terms are at most, over |x|
  std::vector<float> floats;
  HostMatrix host;
  DType dtype = DType::kInt8;
};

class QuantizedMatMulTest : public OpTest {
 protected:
  // A row of codes −127 … 127 with one float32 scale.
  static void MakeChannel(int64_t n, Weight* made) {
    const Mat& w = made->exact;
    float most = 0;
    for (int64_t i = 0; i < w.cols; ++i) {
      most = std::max(most, std::abs(static_cast<float>(w.at(n, i))));
    }
    const float scale = most / 127;
    const float inverse = 127 / most;
    for (int64_t i = 0; i < w.cols; ++i) {
      const float code = most == 0 ? 0 : std::rint(static_cast<float>(w.at(n, i)) * inverse);
      made->value.at(n, i) = static_cast<double>(scale) * code;
      made->terms.at(n, i) = std::abs(made->value.at(n, i));
    }
  }

  static Weight Make(const Mat& w, DType dtype) {
    Weight made{w, Mat(w.rows, w.cols), Mat(w.rows, w.cols), w.Floats(), {}, dtype};
    made.host = {made.floats.data(), DType::kFloat32, w.rows, w.cols};
    for (int64_t n = 0; n < w.rows; ++n) {
      if (dtype == DType::kFloat8) {
        const std::vector<double> kept = InFloat8(w, n);
        for (int64_t i = 0; i < w.cols; ++i) {
          made.value.at(n, i) = kept[static_cast<size_t>(i)];
          made.terms.at(n, i) = std::abs(kept[static_cast<size_t>(i)]);
        }
        continue;
      }
      if (OnDevice()) {
        MakeChannel(n, &made);
        continue;
      }
      for (int64_t first = 0; first < w.cols; first += kQuantGroup) {
        const int64_t count = std::min(kQuantGroup, w.cols - first);
        const auto group = QuantizeGroup(made.floats.data() + n * w.cols + first, count, dtype);
        const double scale = BFloat16ToFloat(group.scale);
        const double minimum = BFloat16ToFloat(group.minimum);
        for (int64_t i = 0; i < count; ++i) {
          const int code = group.codes[static_cast<size_t>(i)];
          const double product = scale * (dtype == DType::kInt8 ? code - kInt8Offset : code);
          made.value.at(n, first + i) = product + minimum;
          made.terms.at(n, first + i) = std::abs(product) + std::abs(minimum);
        }
      }
    }
    return made;
  }

  // x Ŵᵀ in float64, and how far the integers' product may be away from it.
  static Result Reference(const Mat& x, const Weight& w, const Mat* bias, const Mat* before) {
    if (w.dtype == DType::kFloat8) return Float8Reference(x, w, bias, before);
    const bool one_byte = GetParam().options.rows == RowRounding::kInt8;
    Result r{Mat(x.rows, w.value.rows), Mat(x.rows, w.value.rows)};
    const int64_t group = GroupOf(x.cols);
    const int64_t groups = (x.cols + group - 1) / group;
    for (int64_t t = 0; t < x.rows; ++t) {
      // Of two bytes, an activation is off by a step at most (half of one, but where the lower byte
      // is cut at 127), a 127 · 256th of its group's largest; of one, by half a step, a 127th; and
      // by the roundings of the step, its inverse and the product with it: four, of numbers up to
      // 127 · 256, or 127, steps.
      std::vector<double> off;
      for (int64_t g = 0; g < groups; ++g) {
        double most = 0;
        for (int64_t i = g * group; i < std::min((g + 1) * group, x.cols); ++i) {
          most = std::max(most, std::abs(x.at(t, i)));
        }
        off.push_back(one_byte ? most / 127 * (0.5 + 127 * 4 * kU) + 1e-30
                               : most / 127 / 256 * (1 + 127 * 256 * 4 * kU) + 1e-30);
      }
      for (int64_t n = 0; n < w.value.rows; ++n) {
        double sum = 0;
        double quantised = 0;  // by the activations' rounding
        double terms = 0;
        for (int64_t i = 0; i < x.cols; ++i) {
          const double error = off[static_cast<size_t>(i / group)];
          sum += x.at(t, i) * w.value.at(n, i);
          quantised += error * std::abs(w.value.at(n, i));
          terms += (std::abs(x.at(t, i)) + error) * w.terms.at(n, i);
        }
        if (bias != nullptr) sum += bias->v[n], terms += std::abs(bias->v[n]);
        if (before != nullptr) sum += before->at(t, n), terms += std::abs(before->at(t, n));
        // A sum as float32, scales' product, its product with the sum, two additions a group, bias
        // and residual.
        r.out.at(t, n) = sum;
        r.bound.at(t, n) =
            quantised + static_cast<double>(2 * groups + 6) * kU * terms * 1.01 + 1e-30;
      }
    }
    return r;
  }

  // Of the very codes, so that only the float32 sum is off: one rounding a term, as many more for
  // the scales' product, its product with the sum, bias and residual.
  static Result Float8Reference(const Mat& x, const Weight& w, const Mat* bias, const Mat* before) {
    Result r{Mat(x.rows, w.value.rows), Mat(x.rows, w.value.rows)};
    for (int64_t t = 0; t < x.rows; ++t) {
      const std::vector<double> kept = InFloat8(x, t);
      for (int64_t n = 0; n < w.value.rows; ++n) {
        double sum = 0, terms = 0;
        for (int64_t i = 0; i < x.cols; ++i) {
          sum += kept[static_cast<size_t>(i)] * w.value.at(n, i);
          terms += std::abs(kept[static_cast<size_t>(i)]) * w.terms.at(n, i);
        }
        if (bias != nullptr) sum += bias->v[n], terms += std::abs(bias->v[n]);
        if (before != nullptr) sum += before->at(t, n), terms += std::abs(before->at(t, n));
        r.out.at(t, n) = sum;
        r.bound.at(t, n) = static_cast<double>(x.cols + 6) * kU * terms * 1.01 + 1e-30;
      }
    }
    return r;
  }

  Mat Product(const Mat& x, const Matrix& w, const Buffer* bias, MatMulMode mode,
              const Mat& before) {
    const DeviceTensor in = Device(x, 3);
    const DeviceTensor out = Device(before, 5);
    backend_->MatMul(in.view(), w, bias == nullptr ? nullptr : bias->f32(), mode, out.view());
    ExpectSameBits(in.Read(), x, "input changed");
    return out.Read();
  }
};

const std::vector<std::tuple<int, int, int>> kShapes = {
    {1, 1, 1},     {1, 5, 3},    {1, 130, 576}, {2, 7, 64},   {3, 16, 17},   {1, 253, 600},
    {2, 525, 64},  {3, 509, 96}, {4, 70, 96},   {5, 33, 100}, {6, 64, 576},  {7, 97, 65},
    {13, 49, 192}, {16, 16, 32}, {31, 40, 129}, {33, 49, 65}, {97, 48, 160}, {200, 17, 33}};

TEST_P(QuantizedMatMulTest, AgreesWithFloat64OnOddShapes) {
  for (const DType dtype : Quantized()) {
    for (const auto& [rows, n, k] : kShapes) {
      SCOPED_TRACE(::testing::Message()
                   << rows << " rows, N " << n << ", K " << k << ", " << NameOf(dtype));
      const Weight w = Make(Random(n, k), dtype);
      const auto matrix = backend_->LoadMatrix({&w.host, 1}, dtype);
      EXPECT_GE(static_cast<int64_t>(matrix->bytes()),
                OnDevice() ? n * (k + 4) : MatrixBytes(n, k, dtype));
      Mat x = Random(rows, k);
      x.at(0, k / 2) = 30;  // an outlier's group is coarse, the others stay as they are
      const Mat bias = Random(1, n);
      const Buffer bias_buffer = Vector(bias);
      const Mat before = Random(rows, n);
      const Result plain = Reference(x, w, nullptr, nullptr);
      ExpectWithin(Product(x, *matrix, nullptr, MatMulMode::kStore, before), plain.out,
                   plain.bound);
      const Result added = Reference(x, w, &bias, &before);
      ExpectWithin(Product(x, *matrix, &bias_buffer, MatMulMode::kAccumulate, before), added.out,
                   added.bound);
    }
  }
}

// Sums of codes at their ends: neither 16-bit saturation nor an offset that does not cancel.
TEST_P(QuantizedMatMulTest, ExtremeCodesAreSummedExactly) {
  constexpr int64_t kCols = 96;
  constexpr int64_t kRows = 18;  // more than a tile
  for (const DType dtype : Quantized()) {
    for (const double sign : {1.0, -1.0}) {
      Mat w(3, kCols);
      for (int64_t i = 0; i < kCols; ++i) {
        w.at(0, i) = 1;
        w.at(1, i) = i % 2 == 0 ? 1 : -1;
        w.at(2, i) = i % 3 == 0 ? -1 : 0;
      }
      const Weight weight = Make(w, dtype);
      const auto matrix = backend_->LoadMatrix({&weight.host, 1}, dtype);
      Mat x(kRows, kCols);
      for (int64_t t = 0; t < kRows; ++t) {
        for (int64_t i = 0; i < kCols; ++i) {  // exact: a scale of 1
          x.at(t, i) = sign * (i % 2 == 0 || t % 2 == 0 ? 127 : -127);
        }
      }
      Result want = Reference(x, weight, nullptr, nullptr);
      for (int64_t t = 0; t < kRows; ++t) {
        for (int64_t n = 0; n < 3; ++n) {
          double terms = 0;
          for (int64_t i = 0; i < kCols; ++i) terms += 127 * weight.terms.at(n, i);
          want.bound.at(t, n) = 12 * kU * terms;  // no quantisation error is left
        }
      }
      ExpectWithin(Product(x, *matrix, nullptr, MatMulMode::kStore, Mat(kRows, 3)), want.out,
                   want.bound);
    }
  }
}

// Every number of e4m3, and what lies between two, by a product with 1: a scale of 1 each.
TEST_P(QuantizedMatMulTest, Float8RoundsToNearestEven) {
  if (!OnDevice()) GTEST_SKIP() << "fp8 is of GPUs";
  std::vector<double> numbers;
  for (int exponent = -9; exponent <= 8; ++exponent) {
    for (int eighth = 8; eighth < 16; ++eighth) {
      const double number = std::ldexp(eighth, exponent - 3);
      if (number <= 448 && Float8Of(static_cast<float>(number)) == number)
        numbers.push_back(number);
    }
  }
  ASSERT_EQ(numbers.size(), 126U);  // 0x01 … 0x7e
  std::vector<double> values = numbers;
  for (size_t i = 0; i + 1 < numbers.size(); ++i) {
    const double tie = (numbers[i] + numbers[i + 1]) / 2;
    for (const double value : {tie, tie * (1 + 1e-6), tie * (1 - 1e-6)}) values.push_back(value);
  }
  Mat x(1, static_cast<int64_t>(2 * values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    x.v[2 * i] = static_cast<float>(values[i]);
    x.v[2 * i + 1] = -x.v[2 * i];
  }
  // A row of w picks one column out: 448 of a scale of 1.
  Mat w(x.cols, x.cols);
  Mat want(1, x.cols);
  for (int64_t i = 0; i < x.cols; ++i) {
    w.at(i, i) = 448;
    want.v[i] = 448 * Float8Of(static_cast<float>(x.v[i]));
  }
  const std::vector<float> floats = w.Floats();
  const HostMatrix host = {floats.data(), DType::kFloat32, w.rows, w.cols};
  const auto matrix = backend_->LoadMatrix({&host, 1}, DType::kFloat8);
  ExpectSameBits(Product(x, *matrix, nullptr, MatMulMode::kStore, Mat(1, x.cols)), want, "codes");
}

// The promise the whole engine rests on: a row's bits do not depend on the rows beside it. Nor,
// with quantised weights, on the instruction set.
TEST_P(QuantizedMatMulTest, ARowsBitsDoNotDependOnTheOtherRowsNorOnTheInstructionSet) {
  constexpr int64_t kRows = 37;
  const auto best = OnDevice()
                        ? nullptr
                        : MakeBackend(CaseOf("best", ChooseIntGemm(), 1, GetParam().options.rows));
  for (const DType dtype : Quantized()) {
    for (const auto& [n, k] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {70, 33}, {88, 320}, {525, 96}}) {
      const Mat weights = Random(n, k);
      const std::vector<float> floats = weights.Floats();
      const HostMatrix host = {floats.data(), DType::kFloat32, n, k};
      const auto matrix = backend_->LoadMatrix({&host, 1}, dtype);
      const Mat x = Random(kRows, k);
      const Mat before = Random(kRows, n);
      const Buffer bias = Vector(Random(1, n));
      const Mat want = Product(x, *matrix, &bias, MatMulMode::kAccumulate, before);
      if (best != nullptr) {
        const auto other = best->LoadMatrix({&host, 1}, dtype);
        const DeviceTensor out(*best, before);
        best->MatMul(DeviceTensor(*best, x).view(), *other, bias.f32(), MatMulMode::kAccumulate,
                     out.view());
        ExpectSameBits(out.Read(), want, std::string("the best set's beside ") + GetParam().name);
      }
      for (int64_t count = 1; count < kRows; ++count) {
        const int64_t first = (count * 37) % (kRows - count + 1);
        ExpectSameBits(Product(x.Rows(first, count), *matrix, &bias, MatMulMode::kAccumulate,
                               before.Rows(first, count)),
                       want.Rows(first, count),
                       std::to_string(count) + " rows from " + std::to_string(first) + ", N " +
                           std::to_string(n) + ", K " + std::to_string(k) + ", " + NameOf(dtype));
      }
    }
  }
}

TEST_P(QuantizedMatMulTest, RowsAreLookedUpAsTheyAreMultiplied) {
  for (const DType dtype : Quantized()) {
    for (const int64_t cols : {1, 33, 100, 192}) {
      const Weight w = Make(Random(37, cols), dtype);
      const auto table = backend_->LoadMatrix({&w.host, 1}, dtype);
      Batch batch;
      batch.tokens = {3, 0, 36, 16, 3};
      batch.positions = {0, 1, 2, 3, 4};
      const DeviceTensor out = Device(Mat(batch.rows(), cols), 3);
      RunOps(*backend_, batch, [&] { backend_->Embed(batch, *table, nullptr, 2.0F, out.view()); });
      Result want{Mat(batch.rows(), cols), Mat(batch.rows(), cols)};
      for (int64_t t = 0; t < batch.rows(); ++t) {
        for (int64_t i = 0; i < cols; ++i) {
          const int32_t token = batch.tokens[static_cast<size_t>(t)];
          want.out.at(t, i) = 2 * w.value.at(token, i);
          want.bound.at(t, i) = 2 * 2 * kU * w.terms.at(token, i);
        }
      }
      ExpectWithin(out.Read(), want.out, want.bound);
    }
  }
}

TEST_P(QuantizedMatMulTest, ReadsEveryStoredTypeAndLayoutAndStacksParts) {
  constexpr int64_t kCols = 70;
  for (const DType dtype : Quantized()) {
    Mat all = Random(31, kCols);
    for (double& v : all.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    const Weight whole = Make(all, dtype);
    const auto matrix = backend_->LoadMatrix({&whole.host, 1}, dtype);
    // Rows 0 to 8 as bfloat16, the others as float32, [K, N].
    std::vector<uint16_t> narrow;
    for (int64_t i = 0; i < 9 * kCols; ++i) narrow.push_back(FloatToBFloat16(whole.floats[i]));
    std::vector<float> transposed;
    for (int64_t k = 0; k < kCols; ++k) {
      for (int64_t n = 9; n < 31; ++n) transposed.push_back(whole.floats[n * kCols + k]);
    }
    const std::vector<HostMatrix> parts = {{narrow.data(), DType::kBFloat16, 9, kCols},
                                           {transposed.data(), DType::kFloat32, 22, kCols, true}};
    const auto stacked = backend_->LoadMatrix(parts, dtype);
    EXPECT_EQ(stacked->rows(), 31);
    EXPECT_EQ(stacked->cols(), kCols);
    EXPECT_EQ(stacked->dtype(), dtype);
    const Mat x = Random(4, kCols);
    ExpectSameBits(Product(x, *stacked, nullptr, MatMulMode::kStore, Mat(4, 31)),
                   Product(x, *matrix, nullptr, MatMulMode::kStore, Mat(4, 31)), NameOf(dtype));
  }
}

// A file's groups of 32: taken as they are, or, where a row has one scale, quantised again, by half
// a step at most.
TEST_P(QuantizedMatMulTest, TakesTheGroupsOfAFile) {
  constexpr int64_t kRows = 19;
  constexpr int64_t kCols = 70;
  const int64_t groups = QuantGroups(kCols);
  const Mat exact = Random(kRows, kCols);
  const std::vector<float> floats = exact.Floats();
  std::vector<int8_t> codes(kRows * kCols);
  std::vector<uint16_t> scales(static_cast<size_t>(kRows * groups));
  Weight w{exact, Mat(kRows, kCols), Mat(kRows, kCols), floats, {}};
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t i = 0; i < kCols; ++i) {
      const int64_t first = i / kQuantGroup * kQuantGroup;
      const auto group = QuantizeGroup(floats.data() + n * kCols + first,
                                       std::min(kQuantGroup, kCols - first), DType::kInt8);
      const int code = group.codes[static_cast<size_t>(i - first)] - kInt8Offset;
      codes[static_cast<size_t>(n * kCols + i)] = static_cast<int8_t>(code);
      scales[static_cast<size_t>(n * groups + i / kQuantGroup)] = group.scale;
      w.value.at(n, i) = BFloat16ToFloat(group.scale) * static_cast<double>(code);
      w.terms.at(n, i) = std::abs(w.value.at(n, i));
    }
  }
  const HostMatrix stored = {codes.data(), DType::kInt8, kRows, kCols, false, scales.data()};
  const auto matrix = backend_->LoadMatrix({&stored, 1}, DType::kInt8);
  const Mat x = Random(5, kCols);
  Result want = Reference(x, w, nullptr, nullptr);
  for (int64_t n = 0; n < kRows && OnDevice(); ++n) {
    double most = 0;
    for (int64_t i = 0; i < kCols; ++i) most = std::max(most, w.terms.at(n, i));
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t i = 0; i < kCols; ++i) {
        want.bound.at(t, n) += std::abs(x.at(t, i)) * most / 254 * (1 + 254 * 4 * kU);
      }
    }
  }
  ExpectWithin(Product(x, *matrix, nullptr, MatMulMode::kStore, Mat(5, kRows)), want.out,
               want.bound);
}

// What is not finite must not come out as a number.
TEST_P(QuantizedMatMulTest, NanAndInfinityOfActivationsAreSeen) {
  for (const DType dtype : Quantized()) {
    const Weight w = Make(Random(20, 64), dtype);
    const auto matrix = backend_->LoadMatrix({&w.host, 1}, dtype);
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      Mat x = Random(2, 64);
      x.at(1, 40) = bad;
      const DeviceTensor in = Device(x);
      const DeviceTensor out = Device(Mat(2, 20));
      backend_->MatMul(in.view(), *matrix, nullptr, MatMulMode::kStore, out.view());
      const Mat got = out.Read();
      for (int64_t n = 0; n < 20; ++n) {
        EXPECT_TRUE(std::isfinite(got.at(0, n)));
        EXPECT_FALSE(std::isfinite(got.at(1, n)));
      }
    }
  }
}

// Rows of zeros, or of what is too small to be cut into steps, come to nothing.
TEST_P(QuantizedMatMulTest, ZerosComeToZero) {
  for (const DType dtype : Quantized()) {
    const Weight w = Make(Random(20, 70), dtype);
    const auto matrix = backend_->LoadMatrix({&w.host, 1}, dtype);
    Mat x(2, 70);
    x.at(1, 3) = static_cast<float>(1e-38);
    ExpectSameBits(Product(x, *matrix, nullptr, MatMulMode::kStore, Random(2, 20)), Mat(2, 20),
                   NameOf(dtype));
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, QuantizedMatMulTest, ::testing::ValuesIn(Cases()), CaseName);

}  // namespace
}  // namespace t2r::testing

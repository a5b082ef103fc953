// Products of bfloat16 weights with rows rounded to bfloat16: by the instructions that this machine
// has, and by their twins.
#include <bit>
#include <cmath>
#include <iostream>
#include <tuple>

#include "engine/ops/cpu/bf16_gemm/kernels.h"
#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

constexpr DType kBf16 = DType::kBFloat16;

bool InTiles(const Bf16GemmKernels& set) { return set.input_multiple > 2; }

// The plain twin that sums in the same order.
const Bf16GemmKernels& TwinOf(const Bf16GemmKernels& set) {
  for (const Bf16GemmKernels& twin : Bf16GemmSets()) {
    if (twin.twin && std::string(twin.order) == set.order) return twin;
  }
  throw std::logic_error(std::string(set.name) + " has no twin");
}

std::vector<BackendCase> Cases() {
  std::vector<BackendCase> cases;
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (!set.supported()) continue;
    for (const int threads : {1, 2}) {
      BackendCase made;
      made.name = std::string(set.twin ? "TwinOf" : "") + (InTiles(set) ? "Amx" : "Avx512Bf16") +
                  std::to_string(threads);
      made.options.name = "cpu";
      made.options.threads = threads;
      made.options.rows = RowRounding::kBFloat16;
      made.bf16_gemm = &set;
      cases.push_back(made);
    }
  }
  return cases;
}

TEST(Bf16GemmSetsTest, SaysWhichRunHere) {
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    std::cout << set.name
              << (set.supported() ? " runs here\n" : " does not run here: see its twin\n");
  }
  const Bf16GemmKernels* const chosen = ChooseBf16Gemm();
  if (chosen != nullptr) {
    EXPECT_TRUE(chosen->supported());
    EXPECT_FALSE(chosen->twin);
    return;
  }
  BackendOptions options;
  options.name = "cpu";
  options.rows = RowRounding::kBFloat16;
  EXPECT_THROW(t2r::MakeBackend(options), DeviceError);
}

// Runs one row by one output feature, from words of two bfloat16s each.
float DotOf(const Bf16GemmKernels& set, std::vector<uint32_t> x, const std::vector<uint32_t>& w) {
  while (x.size() * 2 % static_cast<size_t>(set.input_multiple) != 0) x.push_back(0);
  std::vector<uint32_t> panel(x.size() * kPairPanel);
  for (size_t i = 0; i < w.size(); ++i) panel[i * kPairPanel] = w[i];
  float out = 0;
  Bf16GemmTask task;
  task.x = x.data();
  task.x_stride = task.pairs = static_cast<int64_t>(x.size());
  task.panels = panel.data();
  task.n = task.out_stride = task.end_row = task.panel_count = 1;
  task.out = &out;
  set.run(task);
  return out;
}

uint32_t Pair(float first, float second) {
  return static_cast<uint32_t>(FloatToBFloat16(second)) << 16 | FloatToBFloat16(first);
}

// What the manual says of vdpbf16ps: the upper product first, and of tdpbf16ps: even and odd
// features apart over 16 pairs, then both together onto the sum; each rounded by itself.
TEST(Bf16GemmSetsTest, DotsAreSummedInTheDocumentedOrder) {
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (!set.supported()) continue;
    SCOPED_TRACE(set.name);
    const bool tiles = InTiles(set);
    // In pairs: 1, then 1 + 2⁻²⁴, which is a tie and rounds to 1, then 1 + 2⁻²³. The other way
    // round 1 + 2⁻²³ + 2⁻²⁴ is a tie that rounds up; so it does where the odd one is added to the
    // evens' sum.
    EXPECT_EQ(DotOf(set, {Pair(1, 0), Pair(1, 1)}, {Pair(1, 0), Pair(0x1p-23F, 0x1p-24F)}),
              tiles ? 1 + 0x1p-22F : 1 + 0x1p-23F);
    // Odd ones by themselves are 2⁻²³; one by one onto 1 each is lost.
    const std::vector<uint32_t> odd = {Pair(1, 0x1p-24F), Pair(0, 0x1p-24F)};
    EXPECT_EQ(DotOf(set, {Pair(1, 1), Pair(1, 1)}, odd), tiles ? 1 + 0x1p-23F : 1);
    // The 17th pair begins a run: its even feature does not join the evens of the 16 before, whose
    // 2⁻²⁴ would with it be 2⁻²³, but comes to 1 alone.
    std::vector<uint32_t> run(17, Pair(0, 0));
    run[0] = Pair(0x1p-24F, 1);
    const std::vector<uint32_t> ones(17, Pair(1, 1));
    run[15] = Pair(0x1p-24F, 0);
    EXPECT_EQ(DotOf(set, run, ones), tiles ? 1 + 0x1p-23F : 1);
    std::swap(run[15], run[16]);
    EXPECT_EQ(DotOf(set, run, ones), 1);
  }
}

TEST(Bf16GemmSetsTest, DotsAreFusedAndKnowNoSubnormals) {
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (!set.supported()) continue;
    SCOPED_TRACE(set.name);
    // A product is not rounded before it is added: 1 + (1 + 2⁻⁷)² · 2⁻²⁴ lies beyond the tie.
    EXPECT_EQ(DotOf(set, {Pair(1, 0), Pair(1 + 0x1p-7F, 0)},
                    {Pair(1, 0), Pair((1 + 0x1p-7F) * 0x1p-24F, 0)}),
              1 + 0x1p-23F);
    EXPECT_EQ(DotOf(set, {Pair(0x1p127F, 0)}, {Pair(0x1p-127F, 0)}), 0);  // a subnormal factor
    EXPECT_EQ(DotOf(set, {Pair(0x1p-63F, 0)}, {Pair(0x1p-64F, 0)}), 0);   // a subnormal result
    EXPECT_EQ(DotOf(set, {Pair(0x1p-63F, 0)}, {Pair(0x1p-63F, 0)}), 0x1p-126F);
    EXPECT_TRUE(std::isnan(DotOf(set, {Pair(NAN, 0)}, {Pair(1, 0)})));
  }
}

// Numbers whose sums cancel, meet at far exponents and leave the normal range.
void ExpectSameDots(const Bf16GemmKernels& set, const Bf16GemmKernels& twin) {
  std::mt19937_64 rng(3);
  for (const int spread : {2, 20, 63}) {
    const auto word = [&] {
      uint32_t both = 0;
      for (int half = 0; half < 2; ++half) {
        const auto exponent =
            static_cast<uint32_t>(127 + static_cast<int>(rng() % (2 * spread + 1)) - spread);
        both = both << 16 | exponent << 7 | static_cast<uint32_t>(rng() & 0x807fU);
      }
      return both;
    };
    for (int n = 0; n < 3000; ++n) {
      std::vector<uint32_t> x(20);
      std::vector<uint32_t> w(20);
      for (uint32_t& v : x) v = word();
      for (uint32_t& v : w) v = word();
      ASSERT_EQ(std::bit_cast<uint32_t>(DotOf(set, x, w)),
                std::bit_cast<uint32_t>(DotOf(twin, x, w)));
    }
  }
}

TEST(Bf16GemmSetsTest, TheTwinHasTheInstructionsBits) {
  bool any = false;
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (set.twin || !set.supported()) continue;
    any = true;
    SCOPED_TRACE(set.name);
    ExpectSameDots(set, TwinOf(set));
  }
  if (!any) GTEST_SKIP() << "this processor has neither AVX512-BF16 nor AMX-BF16";
}

TEST(Bf16GemmSetsTest, RowsAreRoundedToNearestEven) {
  std::vector<float> x = {1,        1 + 0x1p-8F, 1 + 3 * 0x1p-8F, -1 - 0x1.01p-8F,
                          -0.0F,    0x1p-126F,   0x1p-127F,       -0x1.8p-130F,
                          INFINITY, 3.4e38F,     0x1.fep127F};
  std::vector<float> want = {1, 1,     1 + 0x1p-6F, -1 - 0x1p-7F, -0.0F,      0x1p-126F,
                             0, -0.0F, INFINITY,    INFINITY,     0x1.fep127F};
  std::mt19937_64 rng(4);
  std::normal_distribution<float> normal(0, 1);
  for (int i = 0; i < 90; ++i) {
    x.push_back(normal(rng));
    want.push_back(BFloat16ToFloat(FloatToBFloat16(x.back())));
  }
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (!set.supported()) continue;
    for (const size_t count : {size_t{1}, size_t{32}, size_t{33}, x.size()}) {
      const auto multiple = static_cast<size_t>(set.input_multiple);
      const size_t filled = (count + multiple - 1) / multiple * multiple / 2;
      std::vector<uint32_t> pairs(filled + 1, 7);
      set.round_row(x.data(), static_cast<int64_t>(count), pairs.data());
      EXPECT_EQ(pairs.back(), 7U) << "written beyond the row";
      for (size_t i = 0; i < count; ++i) {
        const auto got = static_cast<uint16_t>(pairs[i / 2] >> (16 * (i % 2)));
        EXPECT_EQ(std::bit_cast<uint32_t>(BFloat16ToFloat(got)), std::bit_cast<uint32_t>(want[i]))
            << set.name << ", element " << i << " of " << count;
      }
      EXPECT_EQ(count % 2 != 0 ? pairs[count / 2] >> 16 : 0, 0U);
      for (size_t i = (count + 1) / 2; i < filled; ++i) EXPECT_EQ(pairs[i], 0U) << i;
    }
    const float nan = std::nanf("1");
    std::vector<uint32_t> pairs(static_cast<size_t>(set.input_multiple) / 2);
    set.round_row(&nan, 1, pairs.data());
    EXPECT_TRUE(std::isnan(BFloat16ToFloat(static_cast<uint16_t>(pairs[0]))));
  }
}

class Bf16MatMulTest : public OpTest {
 protected:
  static Mat Rounded(Mat m) {
    for (double& v : m.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    return m;
  }
  std::unique_ptr<Matrix> Load(Backend& backend, const Mat& w) {
    const std::vector<float> floats = w.Floats();
    const HostMatrix host = {floats.data(), DType::kFloat32, w.rows, w.cols};
    return backend.LoadMatrix({&host, 1}, kBf16);
  }
  Mat Product(Backend& backend, const Mat& x, const Matrix& w, const Mat& bias, MatMulMode mode,
              const Mat& before) {
    const Buffer added = backend.LoadVector(bias.Floats());
    const DeviceTensor in(backend, x, 3);
    const DeviceTensor out(backend, before, 5);
    backend.MatMul(in.view(), w, added.f32(), mode, out.view());
    ExpectSameBits(in.Read(), x, "input changed");
    return out.Read();
  }
};

// Of the rounded rows and weights it is the float32 product: as many roundings, as small a bound.
TEST_P(Bf16MatMulTest, AgreesWithFloat64OfRoundedRowsOnOddShapes) {
  for (const auto& [rows, n, k] : std::vector<std::tuple<int, int, int>>{{1, 1, 1},
                                                                         {1, 300, 64},
                                                                         {2, 7, 63},
                                                                         {1, 509, 300},
                                                                         {2, 1050, 64},
                                                                         {3, 765, 96},
                                                                         {5, 33, 100},
                                                                         {12, 64, 33},
                                                                         {13, 97, 65},
                                                                         {31, 40, 129},
                                                                         {97, 48, 160},
                                                                         {200, 70, 33}}) {
    SCOPED_TRACE(::testing::Message() << rows << " rows, N " << n << ", K " << k);
    const Mat w = Random(n, k);
    const auto matrix = Load(*backend_, w);
    EXPECT_GE(matrix->bytes(), static_cast<size_t>(n) * k * 2);
    const Mat x = Random(rows, k);
    const Mat bias = Random(1, n);
    const Mat before = Random(rows, n);
    for (const MatMulMode mode : {MatMulMode::kStore, MatMulMode::kAccumulate}) {
      const Result want = MatMulReference(Rounded(x), Rounded(w), &bias,
                                          mode == MatMulMode::kAccumulate ? &before : nullptr);
      ExpectWithin(Product(*backend_, x, *matrix, bias, mode, before), want.out, want.bound);
    }
  }
}

// A row's bits depend neither on the rows beside it nor on whether the instruction is there.
TEST_P(Bf16MatMulTest, ARowsBitsDoNotDependOnTheOtherRowsNorOnTheSet) {
  constexpr int64_t kRows = 27;
  BackendCase other = GetParam();
  other.bf16_gemm = &TwinOf(*GetParam().bf16_gemm);
  const auto twin = MakeBackend(other);
  for (const auto& [n, k] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {130, 33}, {88, 192}, {530, 66}}) {
    const Mat w = Random(n, k);
    const auto matrix = Load(*backend_, w);
    const Mat x = Random(kRows, k);
    const Mat before = Random(kRows, n);
    const Mat bias = Random(1, n);
    const MatMulMode mode = MatMulMode::kAccumulate;
    const Mat want = Product(*backend_, x, *matrix, bias, mode, before);
    ExpectSameBits(Product(*twin, x, *Load(*twin, w), bias, mode, before), want, "the twin's");
    for (int64_t count = 1; count < kRows; ++count) {
      const int64_t first = (count * 37) % (kRows - count + 1);
      ExpectSameBits(
          Product(*backend_, x.Rows(first, count), *matrix, bias, mode, before.Rows(first, count)),
          want.Rows(first, count), std::to_string(count) + " rows from " + std::to_string(first));
    }
  }
}

// Tiles sum in another order, so they are a class of their own.
TEST_P(Bf16MatMulTest, TheOrderIsPartOfWhatDecidesTheBits) {
  const std::string order =
      InTiles(*GetParam().bf16_gemm) ? ", bfloat16 products in tiles" : ", bfloat16 products";
  const std::string numerics = backend_->Numerics();
  ASSERT_GE(numerics.size(), order.size());
  EXPECT_EQ(numerics.substr(numerics.size() - order.size()), order);
}

TEST_P(Bf16MatMulTest, RowsAreLookedUpAsTheyAreKept) {
  const Mat w = Random(70, 33);
  const auto matrix = Load(*backend_, w);
  const Mat want = Rounded(w);
  Batch batch;
  for (int32_t n = 0; n < 70; ++n) {
    batch.tokens.push_back(69 - n);
    batch.positions.push_back(n);
  }
  const DeviceTensor out = Device(Mat(70, 33));
  RunOps(*backend_, batch, [&] { backend_->Embed(batch, *matrix, nullptr, 1.0F, out.view()); });
  const Mat got = out.Read();
  for (int64_t n = 0; n < 70; ++n) {
    ExpectSameBits(got.Rows(n, 1), want.Rows(69 - n, 1), "row " + std::to_string(69 - n));
  }
}

TEST_P(Bf16MatMulTest, Float32WeightsKeepTheirRows) {
  const Mat w = Random(20, 33);
  const std::vector<float> floats = w.Floats();
  const HostMatrix host = {floats.data(), DType::kFloat32, w.rows, w.cols};
  const auto matrix = backend_->LoadMatrix({&host, 1}, DType::kFloat32);
  const Mat x = Random(3, 33);
  const Mat bias = Random(1, 20);
  const Result want = MatMulReference(x, w, &bias, nullptr);
  ExpectWithin(Product(*backend_, x, *matrix, bias, MatMulMode::kStore, Mat(3, 20)), want.out,
               want.bound);
}

INSTANTIATE_TEST_SUITE_P(Sets, Bf16MatMulTest, ::testing::ValuesIn(Cases()), CaseName);

}  // namespace
}  // namespace t2r::testing

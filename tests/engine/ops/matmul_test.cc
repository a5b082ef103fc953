#include <cmath>
#include <tuple>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

// A weight as a file would hold it, and the values a backend keeps after conversion.
struct Weight {
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
  HostMatrix host;
  Mat values;
};

uint16_t FloatToFloat16(float value) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (Float16ToFloat(static_cast<uint16_t>(bits)) == value) return static_cast<uint16_t>(bits);
  }
  return 0;
}

class MatMulTest : public OpTest {
 protected:
  // Stored as `stored`, in file order [N, K] or, transposed, [K, N]; kept as `kept`.
  Weight MakeWeight(int64_t n, int64_t k, DType stored, DType kept, bool transposed = false) {
    Weight w;
    w.values = Random(n, k);
    for (double& v : w.values.v) {
      if (stored == DType::kFloat16) v = std::round(v * 16) / 16;  // exact in eleven bits
      if (stored == DType::kBFloat16) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    }
    for (int64_t i = 0; i < n * k; ++i) {
      const auto value = static_cast<float>(transposed ? w.values.at(i % n, i / n) : w.values.v[i]);
      w.wide.push_back(value);
      if (stored != DType::kFloat32) {
        w.narrow.push_back(stored == DType::kBFloat16 ? FloatToBFloat16(value)
                                                      : FloatToFloat16(value));
      }
    }
    if (kept == DType::kBFloat16) {
      for (double& v : w.values.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    }
    w.host = {stored == DType::kFloat32 ? static_cast<const void*>(w.wide.data())
                                        : static_cast<const void*>(w.narrow.data()),
              stored, n, k, transposed};
    return w;
  }

  // Inputs as the backend takes them beside such a matrix.
  Mat RandomInput(int64_t rows, int64_t k, DType kept) {
    Mat x = Random(rows, k);
    if (backend_->activation_dtype(kept) == DType::kBFloat16) {
      for (double& v : x.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    }
    return x;
  }
  DeviceTensor Input(const Mat& x, DType kept, int64_t padding = 0) {
    return DeviceTensor(*backend_, x, padding, backend_->activation_dtype(kept));
  }

  void Check(int64_t rows, int64_t n, int64_t k, DType kept, bool with_bias, MatMulMode mode) {
    SCOPED_TRACE(::testing::Message()
                 << rows << " rows, N " << n << ", K " << k << ", " << NameOf(kept) << ", bias "
                 << with_bias << ", mode " << static_cast<int>(mode));
    const Weight w = MakeWeight(n, k, DType::kFloat32, kept);
    const auto matrix = backend_->LoadMatrix({&w.host, 1}, kept);
    const Mat x = RandomInput(rows, k, kept);
    const Mat bias = Random(1, n);
    const Mat before = Random(rows, n);
    const Buffer bias_buffer = Vector(bias);
    const DeviceTensor in = Input(x, kept, 3);
    const DeviceTensor out = Device(before, 5);
    backend_->MatMul(in.view(), *matrix, with_bias ? bias_buffer.f32() : nullptr, mode, out.view());
    const Result want = MatMulReference(x, w.values, with_bias ? &bias : nullptr,
                                        mode == MatMulMode::kAccumulate ? &before : nullptr);
    ExpectWithin(out.Read(), want.out, want.bound);
    ExpectSameBits(in.Read(), x, "input changed");
  }
};

TEST_P(MatMulTest, AgreesWithFloat64OnOddShapes) {
  for (const DType kept : {DType::kFloat32, DType::kBFloat16}) {
    for (const auto& [rows, n, k] : std::vector<std::tuple<int, int, int>>{{1, 1, 1},
                                                                           {1, 5, 3},
                                                                           {2, 7, 64},
                                                                           {3, 16, 17},
                                                                           {1, 509, 300},
                                                                           {2, 1050, 64},
                                                                           {3, 765, 96},
                                                                           {5, 33, 100},
                                                                           {6, 64, 576},
                                                                           {7, 97, 65},
                                                                           {13, 192, 192},
                                                                           {31, 40, 129},
                                                                           {64, 130, 1100},
                                                                           {97, 48, 700},
                                                                           {200, 70, 33}}) {
      Check(rows, n, k, kept, false, MatMulMode::kStore);
      Check(rows, n, k, kept, true, MatMulMode::kStore);
      Check(rows, n, k, kept, false, MatMulMode::kAccumulate);
      Check(rows, n, k, kept, true, MatMulMode::kAccumulate);
    }
  }
}

TEST_P(MatMulTest, ReadsEveryStoredTypeAndLayoutAndStacksParts) {
  for (const DType stored : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const DType kept : {DType::kFloat32, DType::kBFloat16}) {
      const Weight a = MakeWeight(9, 37, stored, kept, false);
      const Weight b = MakeWeight(21, 37, stored, kept, true);
      const Weight c = MakeWeight(1, 37, stored, kept, false);
      const std::vector<HostMatrix> parts = {a.host, b.host, c.host};
      const auto matrix = backend_->LoadMatrix(parts, kept);
      EXPECT_EQ(matrix->rows(), 31);
      EXPECT_EQ(matrix->cols(), 37);
      EXPECT_EQ(matrix->dtype(), kept);
      EXPECT_GE(matrix->bytes(), 31 * 37 * SizeOf(kept));
      Mat stacked(31, 37);
      stacked.v.clear();
      for (const Weight* w : {&a, &b, &c}) {
        stacked.v.insert(stacked.v.end(), w->values.v.begin(), w->values.v.end());
      }
      const Mat x = RandomInput(4, 37, kept);
      const DeviceTensor in = Input(x, kept);
      const DeviceTensor out = Device(Mat(4, 31));
      backend_->MatMul(in.view(), *matrix, nullptr, MatMulMode::kStore, out.view());
      const Result want = MatMulReference(x, stacked, nullptr, nullptr);
      SCOPED_TRACE(std::string(NameOf(stored)) + " kept as " + NameOf(kept));
      ExpectWithin(out.Read(), want.out, want.bound);
    }
  }
}

// The promise the whole engine rests on: a row's bits do not depend on the rows beside it.
TEST_P(MatMulTest, ARowsBitsDoNotDependOnTheOtherRows) {
  constexpr int64_t kRows = 64;
  // A device's library may choose by alignment, which a model's tensors keep from step to step.
  const int64_t unit = ChosenBackend() == "cuda" ? 8 : 1;
  for (const auto& [n, k, kept] :
       std::vector<std::tuple<int64_t, int64_t, DType>>{{1, 1, DType::kFloat32},
                                                        {50, 33, DType::kFloat32},
                                                        {160, 576, DType::kBFloat16},
                                                        {72, 1536, DType::kFloat32},
                                                        {40, 1300, DType::kBFloat16},
                                                        {530, 96, DType::kFloat32}}) {
    const Weight w = MakeWeight(n, k, DType::kFloat32, kept);
    const auto matrix = backend_->LoadMatrix({&w.host, 1}, kept);
    const Mat x = RandomInput(kRows, k, kept);
    const Mat before = Random(kRows, n);
    const Buffer bias = Vector(Random(1, n));
    for (const MatMulMode mode : {MatMulMode::kStore, MatMulMode::kAccumulate}) {
      const DeviceTensor all = Device(before);
      backend_->MatMul(Input(x, kept).view(), *matrix, bias.f32(), mode, all.view());
      const Mat want = all.Read();
      for (int64_t count = 1; count < kRows; ++count) {
        const int64_t first = (count * 37) % (kRows - count + 1);
        const DeviceTensor part = Device(before.Rows(first, count), count % 3 * unit);
        backend_->MatMul(Input(x.Rows(first, count), kept, count % 2 * unit).view(), *matrix,
                         bias.f32(), mode, part.view());
        ExpectSameBits(part.Read(), want.Rows(first, count),
                       std::to_string(count) + " rows from " + std::to_string(first) + ", N " +
                           std::to_string(n) + ", K " + std::to_string(k));
      }
    }
  }
}

TEST_P(MatMulTest, RowsAreLookedUpAsTheyAreKept) {
  if (!backend_->looks_up_matrices()) GTEST_SKIP() << "this backend looks rows up in tables only";
  for (const DType kept : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t cols : {1, 33, 64}) {
      const Weight w = MakeWeight(70, cols, DType::kFloat32, kept);
      const auto matrix = backend_->LoadMatrix({&w.host, 1}, kept);
      Batch batch;
      batch.tokens = {3, 0, 69, 16, 31, 32, 3};
      batch.positions = {0, 1, 2, 3, 4, 5, 6};
      const DeviceTensor out = Device(Mat(batch.rows(), cols), 3);
      RunOps(*backend_, batch, [&] { backend_->Embed(batch, *matrix, nullptr, 1.0F, out.view()); });
      Mat want(batch.rows(), cols);
      for (int64_t t = 0; t < want.rows; ++t) {
        for (int64_t i = 0; i < cols; ++i) {
          want.at(t, i) = w.values.at(batch.tokens[static_cast<size_t>(t)], i);
        }
      }
      ExpectSameBits(out.Read(), want, NameOf(kept));
    }
  }
}

TEST_P(MatMulTest, NoRowsIsNoWork) {
  const Weight w = MakeWeight(8, 8, DType::kFloat32, DType::kFloat32);
  const auto matrix = backend_->LoadMatrix({&w.host, 1}, DType::kFloat32);
  const Mat before = Random(2, 8);
  const DeviceTensor out = Device(before);
  backend_->MatMul(Device(before).view().Rows(0), *matrix, nullptr, MatMulMode::kStore,
                   out.view().Rows(0));
  ExpectSameBits(out.Read(), before, "output changed");
}

// How rows and panels are cut into tasks depends on the threads. Accumulating shows a part that was
// left out as well as one that was done twice.
class ThreadsTest : public MatMulTest {
 protected:
  void CheckThreads(DType kept) {
    BackendCase backend_case = GetParam();
    const Weight w = MakeWeight(530, 40, DType::kFloat32, kept);
    const Mat x = Random(961, 40);
    const Mat before = Random(961, 530);
    Mat want;
    for (const int threads : {1, 2, 3, 5, 16}) {
      backend_case.options.threads = threads;
      const auto backend = testing::MakeBackend(backend_case);
      const auto matrix = backend->LoadMatrix({&w.host, 1}, kept);
      for (const int64_t rows : {961, 257, 200, 97, 48, 47, 33, 32, 31, 16, 15, 4, 3, 1}) {
        const DeviceTensor out(*backend, before.Rows(0, rows), 3);
        backend->MatMul(DeviceTensor(*backend, x.Rows(0, rows)).view(), *matrix, nullptr,
                        MatMulMode::kAccumulate, out.view());
        if (want.rows == 0) want = out.Read();
        ExpectSameBits(out.Read(), want.Rows(0, rows),
                       std::to_string(rows) + " rows, " + std::to_string(threads) + " threads");
      }
    }
  }
};

TEST_P(ThreadsTest, AnyNumberOfThemGivesTheSameBits) {
  using Types = std::vector<DType>;
  const RowRounding rows = GetParam().options.rows;
  const Types kept = rows == RowRounding::kBFloat16 ? Types{DType::kBFloat16}
                     : rows == RowRounding::kInt8
                         ? Types{DType::kInt8, DType::kInt4}
                         : Types{DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kInt4};
  for (const DType dtype : kept) {
    SCOPED_TRACE(NameOf(dtype));
    CheckThreads(dtype);
  }
}

// Rows as they are, in bfloat16 for each twin, and in int8.
std::vector<BackendCase> RoundedRows() {
  std::vector<BackendCase> cases;
  if (ChosenBackend() == "cuda") return cases;
  cases.push_back({"Float32", {"cpu"}});
  cases.push_back({"Int8", {"cpu"}});
  cases.back().options.rows = RowRounding::kInt8;
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (!set.twin) continue;
    cases.push_back({"BFloat16Twin" + std::to_string(cases.size()), {"cpu"}});
    cases.back().options.rows = RowRounding::kBFloat16;
    cases.back().bf16_gemm = &set;
  }
  return cases;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ThreadsTest);
INSTANTIATE_TEST_SUITE_P(Rows, ThreadsTest, ::testing::ValuesIn(RoundedRows()), CaseName);
INSTANTIATE_TEST_SUITE_P(Backends, MatMulTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing

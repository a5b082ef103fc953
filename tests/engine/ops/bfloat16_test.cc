// Ops on bfloat16 activations, where a backend has them: what they are in float32, rounded once.
#include <algorithm>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

constexpr DType kBf16 = DType::kBFloat16;
// Rounding to 8 significant bits: |bf16(x) − x| ≤ 2⁻⁸ |x|.
constexpr double kHalfU = 0x1p-8;

class BFloat16Test : public OpTest {
 protected:
  void SetUp() override {
    if (backend_->activation_dtype(kBf16) != kBf16) {
      GTEST_SKIP() << "this backend's activations are float32";
    }
  }

  // Normal values that bfloat16 holds exactly.
  Mat RandomBf16(int64_t rows, int64_t cols, double scale = 1.0) {
    Mat m = Random(rows, cols, scale);
    for (double& v : m.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    return m;
  }
  // `roundings` more roundings to bfloat16 after a float32 result.
  static Result Rounded(Result r, int roundings = 1) {
    for (size_t i = 0; i < r.out.v.size(); ++i) {
      r.bound.v[i] = r.bound.v[i] * (1 + roundings * kHalfU) +
                     roundings * kHalfU * 1.01 * std::abs(r.out.v[i]) + 1e-38;
    }
    return r;
  }
  void Expect(const DeviceTensor& out, const Result& want) {
    ExpectWithin(out.Read(), want.out, want.bound);
  }
};

const std::vector<std::pair<int64_t, int64_t>> kShapes = {{1, 1}, {3, 5}, {5, 33}, {9, 576}};

TEST_P(BFloat16Test, NormsOfTheResidualStream) {
  for (const auto& [rows, cols] : kShapes) {
    const Mat x = Random(rows, cols, 3.0);
    const Mat weight = Random(1, cols);
    const Mat bias = Random(1, cols);
    const Buffer w = Vector(weight);
    const Buffer b = Vector(bias);
    const DeviceTensor in = Device(x, 4);
    const DeviceTensor rms(*backend_, Mat(rows, cols), 4, kBf16);
    backend_->RmsNorm(in.view(), w.f32(), 1e-5F, rms.view());
    Expect(rms, Rounded(RmsNormReference(x, weight, 1e-5F)));
    const DeviceTensor layer(*backend_, Mat(rows, cols), 3, kBf16);
    backend_->LayerNorm(in.view(), w.f32(), b.f32(), 1e-5F, layer.view());
    Expect(layer, Rounded(LayerNormReference(x, weight, bias, 1e-5F)));
  }
}

TEST_P(BFloat16Test, MatMulRoundsOnce) {
  for (const auto& [rows, n, k] :
       std::vector<std::tuple<int, int, int>>{{1, 1, 1}, {5, 33, 100}, {13, 64, 576}}) {
    const Mat x = RandomBf16(rows, k);
    const Mat w = RandomBf16(n, k);
    const Mat bias = Random(1, n);
    const Mat before = Random(rows, n);
    const std::vector<float> values = w.Floats();
    const Buffer b = Vector(bias);
    const DeviceTensor in(*backend_, x, 2, kBf16);
    for (const DType kept : {kBf16, DType::kFloat32}) {
      const HostMatrix host = {values.data(), DType::kFloat32, n, k};
      const auto matrix = backend_->LoadMatrix({&host, 1}, kept);
      SCOPED_TRACE(::testing::Message() << NameOf(kept) << " weights, n " << n << ", k " << k);
      const DeviceTensor half(*backend_, Mat(rows, n), 3, kBf16);
      backend_->MatMul(in.view(), *matrix, b.f32(), MatMulMode::kStore, half.view());
      Expect(half, Rounded(MatMulReference(x, w, &bias, nullptr)));
      backend_->MatMul(in.view(), *matrix, nullptr, MatMulMode::kStore, half.view());
      Expect(half, Rounded(MatMulReference(x, w, nullptr, nullptr)));
      // Into the residual stream nothing is rounded to 16 bits.
      const DeviceTensor residual = Device(before, 1);
      backend_->MatMul(in.view(), *matrix, b.f32(), MatMulMode::kAccumulate, residual.view());
      const Result want = MatMulReference(x, w, &bias, &before);
      ExpectWithin(residual.Read(), want.out, want.bound);
    }
  }
}

TEST_P(BFloat16Test, Activations) {
  for (const auto& [rows, cols] : kShapes) {
    const Mat gate_up = RandomBf16(rows, 2 * cols, 4.0);
    const DeviceTensor gated(*backend_, Mat(rows, cols), 4, kBf16);
    backend_->SwiGlu(DeviceTensor(*backend_, gate_up, 0, kBf16).view(), gated.view());
    Expect(gated, Rounded(SwiGluReference(gate_up)));
    const Mat x = RandomBf16(rows, cols, 3.0);
    const DeviceTensor both(*backend_, x, 1, kBf16);
    backend_->Activate(ActivationKind::kGeluTanh, both.view());
    Expect(both, Rounded(GeluTanhReference(x)));
  }
}

TEST_P(BFloat16Test, Rope) {
  constexpr int kDim = 64;
  constexpr int kHeads = 3;
  std::vector<double> frequencies;
  for (int i = 0; i < kDim / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / kDim));
  Batch batch;
  batch.positions = {0, 1, 127, 65536};
  batch.tokens.assign(batch.positions.size(), 0);
  const DeviceTensor table = Device(Mat(batch.rows(), kDim));
  RunOps(*backend_, batch, [&] { backend_->RopeTable(batch, frequencies, 1.0, table.view()); });
  const Mat x = RandomBf16(batch.rows(), int64_t{kHeads} * kDim);
  const DeviceTensor turned(*backend_, x, 2, kBf16);
  backend_->Rope(table.view(), kHeads, kDim, turned.view());
  Result want = RopeReference(x, batch.positions, frequencies, 1.0, kHeads);
  Expect(turned, Rounded(want));
}

TEST_P(BFloat16Test, ARowsBitsDoNotDependOnItsNeighbours) {
  const Mat x = Random(40, 96, 2.0);
  const Mat w = RandomBf16(48, 96);
  const std::vector<float> values = w.Floats();
  const HostMatrix host = {values.data(), DType::kFloat32, 48, 96};
  const auto matrix = backend_->LoadMatrix({&host, 1}, kBf16);
  const Buffer weight = Vector(Random(1, 96));
  const auto run = [&](const Mat& rows) {
    const DeviceTensor normed(*backend_, Mat(rows.rows, 96), 0, kBf16);
    const DeviceTensor out(*backend_, Mat(rows.rows, 48), 0, kBf16);
    backend_->RmsNorm(Device(rows).view(), weight.f32(), 1e-5F, normed.view());
    backend_->MatMul(normed.view(), *matrix, nullptr, MatMulMode::kStore, out.view());
    return out.Read();
  };
  const Mat all = run(x);
  for (const int64_t row : {0, 7, 39}) {
    ExpectSameBits(run(x.Rows(row, 1)), all.Rows(row, 1), "row " + std::to_string(row));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, BFloat16Test, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing

// The ops that work row by row: norms, embedding, rotary positions, activations, gather.
#include <algorithm>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

const std::vector<std::pair<int64_t, int64_t>> kShapes = {
    {1, 1}, {3, 5}, {2, 16}, {5, 33}, {17, 64}, {64, 100}, {9, 577}, {40, 1536}};

class RowwiseTest : public OpTest {
 protected:
  // Runs `op(in, out)` on all rows and on single rows: the same bits.
  template <typename Op>
  Mat RunAndCheckRows(const Mat& x, int64_t out_cols, const Op& op) {
    const DeviceTensor out = Device(Mat(x.rows, out_cols), 3);
    op(Device(x, 2).view(), out.view());
    Mat all = out.Read();
    for (int64_t r = 0; r < x.rows; r += std::max<int64_t>(1, x.rows / 4)) {
      const DeviceTensor one = Device(Mat(1, out_cols), 1);
      op(Device(x.Rows(r, 1)).view(), one.view());
      ExpectSameBits(one.Read(), all.Rows(r, 1), "row " + std::to_string(r));
    }
    return all;
  }
};

TEST_P(RowwiseTest, RmsNorm) {
  for (const auto& [rows, cols] : kShapes) {
    const Mat x = Random(rows, cols, 3.0);
    const Mat weight = Random(1, cols);
    const Buffer w = Vector(weight);
    const Mat out = RunAndCheckRows(
        x, cols, [&](Tensor in, Tensor to) { backend_->RmsNorm(in, w.f32(), 1e-5F, to); });
    const Result want = RmsNormReference(x, weight, 1e-5F);
    ExpectWithin(out, want.out, want.bound);
  }
}

TEST_P(RowwiseTest, RmsNormInPlaceAndOfTinyValues) {
  const Mat x = Random(3, 70, 1e-4);
  const Mat weight = Random(1, 70);
  const Buffer w = Vector(weight);
  const DeviceTensor both = Device(x);
  backend_->RmsNorm(both.view(), w.f32(), 1e-6F, both.view());
  const Result want = RmsNormReference(x, weight, 1e-6F);
  ExpectWithin(both.Read(), want.out, want.bound);
}

TEST_P(RowwiseTest, RmsNormOfHeads) {
  for (const int d : {2, 7, 64, 80, 128}) {
    for (const int heads : {1, 3, 10}) {
      const int64_t rows = 5;
      const Mat x = Random(rows, int64_t{heads} * d, 3.0);
      const Mat weight = Random(1, d);
      const Buffer w = Vector(weight);
      const DeviceTensor y = Device(x, 3);
      backend_->RmsNormHeads(y.view(), heads, w.f32(), 1e-5F);
      Mat each(rows * heads, d);  // the same values, a head a row
      each.v = x.v;
      const Result want = RmsNormReference(each, weight, 1e-5F);
      Mat got(rows * heads, d);
      got.v = y.Read().v;
      SCOPED_TRACE(::testing::Message() << "head_dim " << d << ", heads " << heads);
      ExpectWithin(got, want.out, want.bound);
    }
  }
}

TEST_P(RowwiseTest, LayerNorm) {
  for (const auto& [rows, cols] : kShapes) {
    Mat x = Random(rows, cols, 2.0);
    for (double& v : x.v) v = static_cast<float>(v + 5);
    const Mat weight = Random(1, cols);
    const Mat bias = Random(1, cols);
    const Buffer w = Vector(weight);
    const Buffer b = Vector(bias);
    const Mat out = RunAndCheckRows(x, cols, [&](Tensor in, Tensor to) {
      backend_->LayerNorm(in, w.f32(), b.f32(), 1e-5F, to);
    });
    const Result want = LayerNormReference(x, weight, bias, 1e-5F);
    ExpectWithin(out, want.out, want.bound);
  }
}

TEST_P(RowwiseTest, SwiGlu) {
  for (const auto& [rows, cols] : kShapes) {
    const Mat x = Random(rows, 2 * cols, 4.0);
    const Mat out =
        RunAndCheckRows(x, cols, [&](Tensor in, Tensor to) { backend_->SwiGlu(in, to); });
    const Result want = SwiGluReference(x);
    ExpectWithin(out, want.out, want.bound);
  }
}

TEST_P(RowwiseTest, SwiGluAndGeluOfExtremesStayFinite) {
  Mat x(1, 18);
  const double gates[] = {-3e38, -1000, -104, -88, -30, 0, 30, 1000, 3e38};
  for (int i = 0; i < 9; ++i) {
    x.v[i] = static_cast<float>(gates[i]);
    x.v[9 + i] = 1;
  }
  const DeviceTensor out = Device(Mat(1, 9));
  backend_->SwiGlu(Device(x).view(), out.view());
  Mat got = out.Read();
  Result want = SwiGluReference(x);
  // Beyond −88, e^x is under float32's smallest normal: zero or next to it.
  ExpectWithin(got.Rows(0, 1), want.out, want.bound);
  Mat y(1, 9);
  for (int i = 0; i < 9; ++i) y.v[i] = static_cast<float>(gates[i]);
  for (const int i : {0, 8}) y.v[i] = y.v[i] > 0 ? 1e12 : -1e12;  // x³ overflows later
  const DeviceTensor gelu = Device(y);
  backend_->Activate(ActivationKind::kGeluTanh, gelu.view());
  want = GeluTanhReference(y);
  ExpectWithin(gelu.Read(), want.out, want.bound);
}

TEST_P(RowwiseTest, GeluTanh) {
  for (const auto& [rows, cols] : kShapes) {
    const Mat x = Random(rows, cols, 3.0);
    const DeviceTensor all = Device(x, 7);
    backend_->Activate(ActivationKind::kGeluTanh, all.view());
    const Result want = GeluTanhReference(x);
    ExpectWithin(all.Read(), want.out, want.bound);
    const DeviceTensor last = Device(x.Rows(rows - 1, 1));
    backend_->Activate(ActivationKind::kGeluTanh, last.view());
    ExpectSameBits(last.Read(), all.Read().Rows(rows - 1, 1), "last row alone");
  }
}

TEST_P(RowwiseTest, OtherActivations) {
  for (const auto& [rows, cols] : kShapes) {
    const Mat x = Random(rows, cols, 3.0);
    const auto activate = [&](ActivationKind kind) {
      const DeviceTensor all = Device(x, 7);
      backend_->Activate(kind, all.view());
      return all.Read();
    };
    Mat relu = x;
    for (double& v : relu.v) v = std::max(v, 0.0);
    ExpectSameBits(activate(ActivationKind::kRelu), relu, "relu");

    Mat gate_up(rows, 2 * cols);  // silu(x) · 1
    Mat gelu(rows, cols);
    Mat bound(rows, cols);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const double v = x.at(r, c);
        gate_up.at(r, c) = v;
        gate_up.at(r, cols + c) = 1;
        // x/2 erfc(z), z = −x/√2: z is 2u off, which erfc takes (2 z² + 1)-fold at most; erfc
        // itself 6u, the products 2u.
        gelu.at(r, c) = v / 2 * std::erfc(-v / std::sqrt(2.0));
        bound.at(r, c) = kU * (2 * (v * v + 1) + 8) * std::abs(gelu.at(r, c));
      }
    }
    const Result silu = SwiGluReference(gate_up);
    ExpectWithin(activate(ActivationKind::kSilu), silu.out, silu.bound);
    ExpectWithin(activate(ActivationKind::kGelu), gelu, bound);
  }
}

TEST_P(RowwiseTest, AnElementsBitsDoNotDependOnItsColumn) {
  // The vector tail must compute as the vector body does.
  const Mat x = Random(1, 67, 3.0);
  Mat shifted(1, 66);
  for (int i = 0; i < 66; ++i) shifted.v[i] = x.v[i + 1];
  const DeviceTensor a = Device(x);
  const DeviceTensor b = Device(shifted);
  backend_->Activate(ActivationKind::kGeluTanh, a.view());
  backend_->Activate(ActivationKind::kGeluTanh, b.view());
  const Mat whole = a.Read();
  Mat tail(1, 66);
  for (int i = 0; i < 66; ++i) tail.v[i] = whole.v[i + 1];
  ExpectSameBits(b.Read(), tail, "shifted by one");
}

TEST_P(RowwiseTest, EmbedLooksUpEveryStoredType) {
  constexpr int kVocabulary = 11;
  for (const int64_t hidden : {1, 7, 64, 100}) {
    std::vector<float> wide(kVocabulary * hidden);
    std::vector<uint16_t> bf16;
    std::vector<uint16_t> f16;
    for (size_t i = 0; i < wide.size(); ++i) {
      wide[i] = static_cast<float>(i) * 0.37F - 20;
      bf16.push_back(FloatToBFloat16(wide[i]));
      f16.push_back(static_cast<uint16_t>(0x3000 + i));
    }
    const auto w = backend_->LoadTable({wide.data(), DType::kFloat32, kVocabulary, hidden});
    const auto b = backend_->LoadTable({bf16.data(), DType::kBFloat16, kVocabulary, hidden});
    const auto f = backend_->LoadTable({f16.data(), DType::kFloat16, kVocabulary, hidden});
    Batch batch;
    batch.tokens = {3, 0, 10, 3};
    batch.positions = {0, 10, 4, 5};
    for (const auto& [table, learned] :
         std::vector<std::pair<const Matrix*, const Matrix*>>{{w.get(), nullptr},
                                                              {b.get(), nullptr},
                                                              {f.get(), nullptr},
                                                              {w.get(), b.get()},
                                                              {b.get(), f.get()}}) {
      const DeviceTensor out = Device(Mat(4, hidden), 3);
      RunOps(*backend_, batch, [&] { backend_->Embed(batch, *table, learned, 1.0F, out.view()); });
      Mat want(4, hidden);
      const auto element = [&](const Matrix* m, int64_t i) {
        if (m == w.get()) return wide[i];
        return m == b.get() ? BFloat16ToFloat(bf16[i]) : Float16ToFloat(f16[i]);
      };
      for (int t = 0; t < 4; ++t) {
        for (int64_t i = 0; i < hidden; ++i) {
          float value = element(table, batch.tokens[t] * hidden + i);
          if (learned != nullptr) value += element(learned, batch.positions[t] * hidden + i);
          want.at(t, i) = value;
        }
      }
      ExpectSameBits(out.Read(), want, "hidden " + std::to_string(hidden));
    }
  }
}

TEST_P(RowwiseTest, EmbedScalesTokensButNotPositions) {
  const Mat values = Random(5, 33);
  const Mat places = Random(4, 33);
  const std::vector<float> v = values.Floats();
  const std::vector<float> p = places.Floats();
  const auto table = backend_->LoadTable({v.data(), DType::kFloat32, 5, 33});
  const auto learned = backend_->LoadTable({p.data(), DType::kFloat32, 4, 33});
  Batch batch;
  batch.tokens = {4, 0};
  batch.positions = {1, 3};
  const DeviceTensor out = Device(Mat(2, 33), 3);
  RunOps(*backend_, batch,
         [&] { backend_->Embed(batch, *table, learned.get(), 5.5F, out.view()); });
  Mat want(2, 33);
  Mat bound(2, 33);
  for (int t = 0; t < 2; ++t) {
    for (int64_t i = 0; i < 33; ++i) {
      const double token = 5.5 * values.at(batch.tokens[t], i);
      want.at(t, i) = token + places.at(batch.positions[t], i);
      bound.at(t, i) = kU * (std::abs(token) + std::abs(want.at(t, i))) * (1 + kU);
    }
  }
  ExpectWithin(out.Read(), want, bound);
}

TEST_P(RowwiseTest, RopeAtAnyPosition) {
  for (const int d : {2, 8, 64, 80, 128}) {
    for (const int heads : {1, 3, 9}) {
      std::vector<double> frequencies;
      for (int i = 0; i < d / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / d));
      Batch batch;
      batch.positions = {0, 1, 127, 65536, 1000000, (int64_t{1} << 33) + 12345};
      batch.tokens.assign(batch.positions.size(), 0);
      const auto rows = batch.rows();
      const DeviceTensor table = Device(Mat(rows, d), 4);
      RunOps(*backend_, batch, [&] { backend_->RopeTable(batch, frequencies, 1.5, table.view()); });
      const Mat x = Random(rows, static_cast<int64_t>(heads) * d);
      const DeviceTensor y = Device(x, 3);
      backend_->Rope(table.view(), heads, d, y.view());
      const Result want = RopeReference(x, batch.positions, frequencies, 1.5, heads);
      SCOPED_TRACE(::testing::Message() << "head_dim " << d << ", heads " << heads);
      ExpectWithin(y.Read(), want.out, want.bound);
    }
  }
}

TEST_P(RowwiseTest, PairsOfFrequencyZeroAreLeftAlone) {
  Batch batch;
  batch.positions = {0, 5, 1000000};
  batch.tokens.assign(3, 0);
  const std::vector<double> frequencies = {0.25, 0};
  const DeviceTensor table = Device(Mat(3, 4), 4);
  RunOps(*backend_, batch, [&] { backend_->RopeTable(batch, frequencies, 1.5, table.view()); });
  const Mat got = table.Read();
  for (int64_t t = 0; t < 3; ++t) {
    const double angle = 0.25 * static_cast<double>(batch.positions[t]);
    EXPECT_NEAR(got.at(t, 0), 1.5 * std::cos(angle), 1e-7);
    EXPECT_EQ(got.at(t, 1), 1);
    EXPECT_NEAR(got.at(t, 2), 1.5 * std::sin(angle), 1e-7);
    EXPECT_EQ(got.at(t, 3), 0);
  }
}

TEST_P(RowwiseTest, RopeOfAPartOfEachHead) {
  const int heads = 3;
  for (const auto& [d, turned] :
       std::vector<std::pair<int, int>>{{8, 2}, {64, 16}, {80, 20}, {9, 6}}) {
    std::vector<double> frequencies;
    for (int i = 0; i < turned / 2; ++i) frequencies.push_back(std::pow(100.0, -2.0 * i / turned));
    Batch batch;
    batch.positions = {0, 3, 1000000};
    batch.tokens.assign(batch.positions.size(), 0);
    const DeviceTensor table = Device(Mat(batch.rows(), turned), 4);
    RunOps(*backend_, batch, [&] { backend_->RopeTable(batch, frequencies, 1.0, table.view()); });
    const Mat x = Random(batch.rows(), int64_t{heads} * d);
    const DeviceTensor y = Device(x, 3);
    backend_->Rope(table.view(), heads, d, y.view());
    const Mat got = y.Read();
    for (int h = 0; h < heads; ++h) {
      Mat head(batch.rows(), turned);
      Mat turned_head(batch.rows(), turned);
      for (int64_t t = 0; t < batch.rows(); ++t) {
        for (int i = 0; i < d; ++i) {
          if (i < turned) {
            head.at(t, i) = x.at(t, h * d + i);
            turned_head.at(t, i) = got.at(t, h * d + i);
          } else {
            EXPECT_EQ(got.at(t, h * d + i), x.at(t, h * d + i)) << "value " << i;
          }
        }
      }
      const Result want = RopeReference(head, batch.positions, frequencies, 1.0, 1);
      SCOPED_TRACE(::testing::Message() << turned << " of " << d);
      ExpectWithin(turned_head, want.out, want.bound);
    }
  }
}

TEST_P(RowwiseTest, RopesAngleIsAFloat64Product) {
  // The same contract from another side: at 2^33 a float32 angle would be a radian off.
  Batch batch;
  batch.positions = {int64_t{1} << 33};
  batch.tokens = {0};
  const std::vector<double> frequencies = {0.1};
  const DeviceTensor table = Device(Mat(1, 2));
  RunOps(*backend_, batch, [&] { backend_->RopeTable(batch, frequencies, 1.0, table.view()); });
  const Mat got = table.Read();
  EXPECT_NEAR(got.v[0], std::cos(858993459.2), 1e-6);
  EXPECT_NEAR(got.v[1], std::sin(858993459.2), 1e-6);
}

TEST_P(RowwiseTest, GatherLogitRows) {
  const Mat x = Random(9, 21);
  const DeviceTensor in = Device(x, 2);
  const DeviceTensor out = Device(Mat(4, 21), 5);
  const std::vector<int32_t> rows = {0, 3, 4, 8};
  Batch batch;
  batch.tokens.assign(9, 0);
  batch.positions.assign(9, 0);
  batch.logit_rows = rows;
  RunOps(*backend_, batch, [&] { backend_->GatherLogitRows(batch, in.view(), out.view()); });
  const Mat got = out.Read();
  for (int i = 0; i < 4; ++i) ExpectSameBits(got.Rows(i, 1), x.Rows(rows[i], 1), "row");
}

INSTANTIATE_TEST_SUITE_P(Backends, RowwiseTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing

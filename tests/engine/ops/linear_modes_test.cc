// Linear attention over prompts of several chunks, on bfloat16 activations, and in the modes of
// cross attention.
#include <algorithm>

#include "tests/engine/ops/testing/linear_sessions.h"

namespace t2r::testing {
namespace {

// Rounding to 8 significant bits: |bf16(x) − x| ≤ 2⁻⁸ |x|.
constexpr double kHalfU = 0x1p-8;

struct Shape {
  int features, d, heads, groups;
};
const std::vector<Shape> kShapes = {{32, 8, 8, 4}, {64, 64, 3, 1}, {10, 20, 2, 2}, {96, 72, 2, 1}};

class LinearModesTest : public LinearOpTest {
 protected:
  // Rows of a part.
  static LinearSessions::Part Piece(const LinearSessions::Part& part, int64_t at, int64_t rows) {
    return {part.slot, part.q.Rows(at, rows), part.k.Rows(at, rows), part.v.Rows(at, rows), at};
  }
  // All calls of `for each map and shape`.
  template <typename Fn>
  void ForEachLayer(const Fn& fn) {
    for (const FeatureMapKind kind : kKinds) {
      for (const Shape& shape : kShapes) {
        const bool folded = kind == FeatureMapKind::kT2r && shape.features == 10;
        SCOPED_TRACE(::testing::Message() << kKindNames[static_cast<int>(kind)] << ", k "
                                          << shape.features << ", d " << shape.d);
        fn(MakeLayer(kind, shape.features, shape.d, shape.heads, shape.groups, Normalizer::kClamp,
                     folded));
      }
    }
  }
  static void RoundAll(Mat* m) {
    for (double& v : m->v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
  }
};

// Splits that are no multiples of the alignment included: each is within the bound.
TEST_P(LinearModesTest, LongPromptsAgreeWithFloat64) {
  ForEachLayer([&](const LinearLayer& layer) {
    const LinearSessions::Part all = MakePart(layer, 1, 150);
    for (const std::vector<int64_t>& split :
         {std::vector<int64_t>{150}, {64, 64, 22}, {30, 35, 1, 84}, {63, 66, 21}}) {
      LinearSessions sessions = Sessions(layer, 2);
      LinearState state(layer);
      int64_t at = 0;
      for (const int64_t rows : split) {
        const LinearSessions::Part mine = Piece(all, at, rows);
        const Result want = LinearAttentionReference(layer, mine.q, mine.k, mine.v, &state);
        ExpectWithin(sessions.Run({mine})[0], want.out, want.bound);
        at += rows;
      }
      ExpectWithin(sessions.ReadState(1), state.value, state.Bound(layer));
    }
  });
}

// A device works prompts so many tiles at a time: where that cuts a session's, nothing changes.
TEST_P(LinearModesTest, MoreTilesThanAreWorkedAtOnce) {
  constexpr int kOthers = 255;  // with a tile each, before three tiles of one session
  constexpr int64_t kRows = 130;
  const LinearLayer layer = MakeLayer(FeatureMapKind::kT2r, 8, 4, 1, 1, Normalizer::kClamp, false);
  const LinearSessions::Part mine = MakePart(layer, kOthers, kRows);
  LinearSessions alone = Sessions(layer, kOthers + 2);
  const Mat want = alone.Run({mine})[0];
  LinearSessions sessions = Sessions(layer, kOthers + 2);
  std::vector<LinearSessions::Part> parts;
  for (int i = 0; i < kOthers; ++i) parts.push_back(MakePart(layer, i, 2));
  parts.push_back(mine);
  parts.push_back(MakePart(layer, kOthers + 1, 3));
  ExpectSameBits(sessions.Run(parts)[kOthers], want, "among many");
  ExpectSameBits(sessions.ReadState(kOthers), alone.ReadState(kOthers), "state");
}

// Accumulate is causal attention that nobody reads; read is the readout alone.
TEST_P(LinearModesTest, AccumulateThenRead) {
  ForEachLayer([&](const LinearLayer& layer) {
    for (const int64_t n : {1, 21, 70}) {
      const LinearSessions::Part source = MakePart(layer, 1, n);
      const LinearSessions::Part target = MakePart(layer, 1, 66);
      LinearSessions sessions = Sessions(layer, 2);
      const int64_t first = std::min<int64_t>(n, 64);
      sessions.Run({Piece(source, 0, first)}, LinearAttentionMode::kAccumulate);
      if (n > first) {
        sessions.Run({Piece(source, first, n - first)}, LinearAttentionMode::kAccumulate);
      }
      LinearState state(layer);
      LinearState before(layer);  // the last key
      for (int64_t t = 0; t < n; ++t) {
        before = state;
        LinearAttentionReference(layer, source.q.Rows(t, 1), source.k.Rows(t, 1),
                                 source.v.Rows(t, 1), &state);
      }
      ExpectWithin(sessions.ReadState(1), state.value, state.Bound(layer));

      const Mat pool = sessions.ReadPool();
      const Mat together = sessions.Run({target}, LinearAttentionMode::kRead)[0];
      const Mat alone = sessions.Run({Piece(target, 3, 1)}, LinearAttentionMode::kRead)[0];
      ExpectSameBits(sessions.ReadPool(), pool, "reading changed the state");
      for (int64_t t = 0; t < target.q.rows; ++t) {
        LinearState last = before;
        const Result want = LinearAttentionReference(
            layer, target.q.Rows(t, 1), source.k.Rows(n - 1, 1), source.v.Rows(n - 1, 1), &last);
        ExpectWithin(together.Rows(t, 1), want.out, want.bound);
        if (t == 3) ExpectWithin(alone, want.out, want.bound);
      }
    }
  });
}

// bfloat16 inputs and outputs. φ of queries and keys, and their products within a chunk, are
// rounded to bfloat16 at most once, values not at all: each term of a numerator or denominator is
// off by at most 3 · 2⁻⁸ of itself (and 2⁻¹⁶ for what is split in two), each of the state by 2⁻⁸;
// the output is rounded once more. For maps with φ ≥ 0 the magnitudes are those of the sums with
// |v|.
TEST_P(LinearModesTest, BFloat16) {
  if (backend_->activation_dtype(DType::kBFloat16) != DType::kBFloat16) {
    GTEST_SKIP() << "this backend's activations are float32";
  }
  ForEachLayer([&](LinearLayer layer) {
    constexpr int64_t kN = 150;
    const bool rfa = layer.map.kind == FeatureMapKind::kRfa;
    if (rfa) {
      // φ has both signs: keep the denominator away from 0. |φ(q)·φ(k)| ≤ 1.
      layer.normalizer = Normalizer::kAdd;
      layer.eps = 2 * kN;
    }
    LinearSessions::Part all = MakePart(layer, 1, kN);
    for (Mat* m : {&all.q, &all.k, &all.v}) RoundAll(m);
    Mat magnitudes = all.v;
    for (double& v : magnitudes.v) v = std::abs(v);
    for (const std::vector<int64_t>& split :
         {std::vector<int64_t>{kN}, {64, 64, 22}, {65, 1, 1, 83}}) {
      LinearSessions sessions = Sessions(layer, 2);
      sessions.dtype = DType::kBFloat16;
      LinearState state(layer);
      LinearState absolute(layer);
      Mat sums(1, static_cast<int64_t>(layer.groups) * layer.head_dim);  // of |v|
      int64_t at = 0;
      for (const int64_t rows : split) {
        const LinearSessions::Part mine = Piece(all, at, rows);
        const Result want = LinearAttentionReference(layer, mine.q, mine.k, mine.v, &state);
        const Result wide =
            LinearAttentionReference(layer, mine.q, mine.k, magnitudes.Rows(at, rows), &absolute);
        Mat bound = want.bound;
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t c = 0; c < sums.cols; ++c) sums.v[c] += magnitudes.at(at + t, c);
          for (int64_t c = 0; c < bound.cols; ++c) {
            const int64_t num_queries_per_kv = layer.heads / layer.groups;
            const int64_t group_column =
                c / layer.head_dim / num_queries_per_kv * layer.head_dim + c % layer.head_dim;
            const double y = std::abs(want.out.at(t, c));
            const double numerator =
                rfa ? sums.v[group_column] / (layer.eps - kN) : wide.out.at(t, c);
            const double denominator = rfa ? y * kN / (layer.eps - kN) : y;
            bound.at(t, c) = want.bound.at(t, c) * (1 + kHalfU) +
                             3.1 * kHalfU * (numerator + denominator) + 1.1 * kHalfU * y + 1e-38;
          }
        }
        ExpectWithin(sessions.Run({mine})[0], want.out, bound);
        at += rows;
      }
      Mat bound = state.Bound(layer);
      for (size_t i = 0; i < bound.v.size(); ++i) {
        bound.v[i] += 1.1 * kHalfU * (rfa ? state.magnitude.v[i] : absolute.value.v[i]);
      }
      ExpectWithin(sessions.ReadState(1), state.value, bound);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearModesTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/engine/ops/testing/windowed_sessions.h"

namespace t2r::testing {
namespace {

class WindowedAttentionTest : public WindowedOpTest {
 protected:
  // Two sessions side by side, prompts and single tokens, from position `start` on.
  void CheckAgainstFloat64(const WindowedCase& c, int64_t start = 0,
                           const std::vector<int64_t>& split = {9, 1, 1, 18, 1, 23}) {
    SCOPED_TRACE(::testing::Message() << c << ", from " << start);
    const WindowedLayer layer = MakeLayer(c);
    WindowedSessions sessions(*backend_, layer, 3);
    WindowedReference first(layer, start);
    WindowedReference second(layer);
    int64_t a_at = start;
    int64_t b_at = 0;
    for (const int64_t rows : split) {
      const WindowedSessions::Part a = MakePart(layer, 2, rows, a_at);
      const WindowedSessions::Part b = MakePart(layer, 0, rows == 1 ? 4 : 1, b_at);
      const std::vector<Mat> got = sessions.Run({a, b});
      const Result want_a = first.Run(a.q, a.k, a.v);
      const Result want_b = second.Run(b.q, b.k, b.v);
      ExpectWithin(got[0], want_a.out, want_a.bound);
      ExpectWithin(got[1], want_b.out, want_b.bound);
      a_at += rows;
      b_at += b.q.rows;
    }
    if (layer.state_floats() == 0) return;
    const Result want = first.State();
    ExpectWithin(sessions.ReadState(2), want.out, want.bound);
  }
};

TEST_P(WindowedAttentionTest, EveryMapAgreesWithFloat64) {
  for (const FeatureMapKind kind : kWindowedKinds) {
    for (const int fold : {1, 4, 8}) {
      for (const int sinks : {0, 3}) {
        for (const bool rope_features : {false, true}) {
          WindowedCase c;
          c.kind = kind;
          c.fold = fold;
          c.sinks = sinks;
          c.rope_features = rope_features;
          c.decay = fold == 4 || sinks == 3;
          CheckAgainstFloat64(c);
        }
        WindowedCase c;
        c.kind = kind;
        c.fold = fold;
        c.sinks = sinks;
        c.rotary = false;
        CheckAgainstFloat64(c);
      }
    }
  }
}

TEST_P(WindowedAttentionTest, Shapes) {
  const std::vector<WindowedCase> cases = {
      {.features = 1, .d = 2, .heads = 1, .groups = 1, .window = 1},
      {.features = 6, .d = 20, .heads = 4, .groups = 2, .window = 5, .sinks = 1, .fold = 3},
      {.features = 64, .d = 64, .heads = 9, .groups = 3, .window = 20, .sinks = 4},
      {.features = 33, .d = 80, .heads = 5, .groups = 1, .window = 3, .sinks = 2, .fold = 40},
      {.kind = FeatureMapKind::kNone, .d = 128, .heads = 2, .groups = 1, .window = 30},
      {.kind = FeatureMapKind::kT2r, .features = 12, .d = 12, .heads = 6, .groups = 1, .sinks = 9},
  };
  for (const WindowedCase& c : cases) CheckAgainstFloat64(c);
}

// Windows wider than a block of keys.
TEST_P(WindowedAttentionTest, WideWindows) {
  for (const int window : {100, 150, 260}) {
    WindowedCase c{.features = 4, .d = 4, .window = window, .sinks = 3, .fold = 7};
    CheckAgainstFloat64(c, 0, {150, 1, 170, 1, 130});
  }
}

TEST_P(WindowedAttentionTest, SinkPosition) {
  for (const int64_t position : {0, 2, 20}) {
    for (const bool rope_features : {false, true}) {
      WindowedCase c{.sinks = 4, .fold = 2, .rope_features = rope_features};
      c.sink_position = position;
      CheckAgainstFloat64(c);
    }
  }
}

// Far from the start nothing changes: angles are exact, and the ring's places follow positions of
// 64 bits.
TEST_P(WindowedAttentionTest, FarPositions) {
  for (const int64_t start : {int64_t{999'983}, (int64_t{1} << 31) - 11, int64_t{40'000'000'003}}) {
    for (const bool rope_features : {false, true}) {
      WindowedCase c{.sinks = 2, .fold = 3, .rope_features = rope_features};
      CheckAgainstFloat64(c, start);
      c.fold = 1;
      c.sink_position = 100;
      CheckAgainstFloat64(c, start);
    }
  }
}

TEST_P(WindowedAttentionTest, NarrowKeysAndValues) {
  for (const DType dtype : {DType::kBFloat16, DType::kInt8}) {
    if (!backend_->keeps_windows_as(dtype)) continue;
    for (const FeatureMapKind kind : {FeatureMapKind::kCodebook, FeatureMapKind::kNone}) {
      for (const int d : {2, 8, 20, 64}) {
        WindowedCase c{.kind = kind, .d = d, .heads = 3, .sinks = 3, .fold = 2, .decay = true};
        c.window_dtype = dtype;
        CheckAgainstFloat64(c);
        c.window = 150;
        CheckAgainstFloat64(c, 0, {140, 1, 90});
        c.window = 3;
        c.sink_position = 4;
        CheckAgainstFloat64(c);
      }
    }
  }
}

// Where each key and value is what 8 bits and a scale can say, they lose nothing by it: the bound
// is that of float32 windows.
TEST_P(WindowedAttentionTest, EightBitsKeepWhatFitsThem) {
  if (!backend_->keeps_windows_as(DType::kInt8)) {
    GTEST_SKIP() << "this backend keeps no windows in 8 bits";
  }
  WindowedCase c{.d = 20, .heads = 4, .groups = 2, .window = 140, .sinks = 3, .rotary = false};
  const WindowedLayer exact = MakeLayer(c);
  WindowedLayer layer = exact;
  layer.window_dtype = DType::kInt8;
  WindowedSessions sessions(*backend_, layer, 2);
  WindowedReference reference(exact);
  for (int64_t at = 0; at < 240; at += 80) {
    WindowedSessions::Part part = MakePart(layer, 1, 80, at);
    for (Mat* m : {&part.k, &part.v}) {
      for (int64_t row = 0; row < m->rows; ++row) {
        for (int64_t i = 0; i < m->cols; ++i) {
          const double scale = std::exp2(-6 - (row + i / c.d) % 3);
          m->at(row, i) = i % c.d == row % c.d
                              ? -127 * scale
                              : std::clamp(std::round(32 * m->at(row, i)), -127.0, 127.0) * scale;
        }
      }
    }
    const Result want = reference.Run(part.q, part.k, part.v);
    ExpectWithin(sessions.Run({part})[0], want.out, want.bound);
  }
}

// What is not finite stays so: the server ends such a session.
TEST_P(WindowedAttentionTest, EightBitsHideNothingThatIsNotFinite) {
  if (!backend_->keeps_windows_as(DType::kInt8)) {
    GTEST_SKIP() << "this backend keeps no windows in 8 bits";
  }
  WindowedCase c{.d = 20};
  c.window_dtype = DType::kInt8;
  const WindowedLayer layer = MakeLayer(c);
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (Mat WindowedSessions::Part::*of :
         {&WindowedSessions::Part::k, &WindowedSessions::Part::v}) {
      WindowedSessions sessions(*backend_, layer, 1);
      WindowedSessions::Part part = MakePart(layer, 0, 3);
      (part.*of).at(1, 17) = bad;
      const Mat out = sessions.Run({part})[0];
      EXPECT_TRUE(std::isfinite(out.at(0, 0)));
      EXPECT_FALSE(std::isfinite(out.at(1, 0)));
    }
  }
}

// With bfloat16 activations a prompt's products take rounded factors: q̂ and k̂ move a logit by up to
// 2⁻⁸ of s Σ |q̂| |k̂|, q a codebook's exponent by 2⁻⁹ of s Σ |E| |q|, k the logarithm of a feature
// by twice 2⁻⁹ of Σ |A| |k|; features, weights and their products round three times more, by 2⁻⁹
// each. So a weight is off by a share e at most, its sum over values, and its sum, likewise, and
// their quotient by 2 e / (1 − e) of the largest value; then it rounds once more.
TEST_P(WindowedAttentionTest, SixteenBitActivations) {
  if (backend_->activation_dtype(DType::kBFloat16) != DType::kBFloat16) {
    GTEST_SKIP() << "this backend's activations are float32";
  }
  const auto rounded = [&](Mat m) {
    for (double& v : m.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v / 2)));
    return m;
  };
  const auto largest_norm = [](const Mat& m, int64_t width) {
    double largest = 0;
    for (size_t at = 0; at < m.v.size(); at += static_cast<size_t>(width)) {
      double squares = 0;
      for (int64_t i = 0; i < width; ++i) squares += m.v[at + i] * m.v[at + i];
      largest = std::max(largest, std::sqrt(squares));
    }
    return largest;
  };
  for (const int fold : {1, 6, 70}) {
    const WindowedCase c{
        .features = 20, .d = 16, .heads = 4, .groups = 2, .window = 9, .sinks = 2, .fold = fold};
    SCOPED_TRACE(::testing::Message() << c);
    const WindowedLayer layer = MakeLayer(c);
    WindowedSessions sessions(*backend_, layer, 1);
    sessions.dtype = DType::kBFloat16;
    WindowedReference reference(layer);
    int64_t at = 0;
    for (const int64_t rows : {100, 1, 64, 1}) {
      WindowedSessions::Part part = MakePart(layer, 0, rows, at);
      part.q = rounded(part.q);
      part.k = rounded(part.k);
      part.v = rounded(part.v);
      const Result want = reference.Run(part.q, part.k, part.v);
      // |x · y| ≤ ‖x‖ ‖y‖ bounds the sums of magnitudes too.
      const double q = largest_norm(part.q, 16) * layer.linear.map.query_scale;
      const double k = largest_norm(part.k, 16);
      const double near = 0x1p-8 * q * std::max(k, 4.0);  // keys before this part: below 4
      const double far = 0x1p-9 * q * largest_norm(layer.query_weight, 16) +
                         0x1p-8 * std::max(k, 4.0) * largest_norm(layer.linear.weight, 16);
      const double e = std::expm1(std::max(near, far)) + 3 * 0x1p-9;
      double value = 0;
      for (const double v : part.v.v) value = std::max(value, std::abs(v));
      Mat bound = want.bound;
      for (double& b : bound.v) b += 2 * e / (1 - e) * std::max(value, 2.0) + 0x1p-8 * value;
      ExpectWithin(sessions.Run({part})[0], want.out, bound);
      at += rows;
    }
  }
}

// e^λ times a sum far above and far below what is near by: neither runs over nor is lost.
TEST_P(WindowedAttentionTest, FarBiasOfAnySize) {
  for (const double bias : {-200.0, -60.0, 60.0, 200.0}) {
    const WindowedLayer made = MakeLayer({.kind = FeatureMapKind::kHedgehog, .sinks = 1});
    WindowedLayer layer = made;
    for (double& value : layer.far_bias.v) value = bias;
    WindowedSessions sessions(*backend_, layer, 1);
    WindowedReference reference(layer);
    const WindowedSessions::Part part = MakePart(layer, 0, 20);
    const Result want = reference.Run(part.q, part.k, part.v);
    ExpectWithin(sessions.Run({part})[0], want.out, want.bound);
  }
}

// Without a window: a recurrence, and its two halves as cross attention uses them.
TEST_P(WindowedAttentionTest, CodebookWithoutAWindow) {
  for (const bool rotary : {false, true}) {
    for (const bool decay : {false, true}) {
      for (const bool rope_features : {false, true}) {
        WindowedCase c{.features = 24, .heads = 4, .groups = 2, .window = 0, .rotary = rotary};
        c.rope_features = rope_features;
        c.decay = decay;
        CheckAgainstFloat64(c);
      }
    }
  }
  const WindowedLayer layer =
      MakeLayer({.features = 10, .d = 20, .heads = 4, .groups = 2, .window = 0, .rotary = false});
  for (const int64_t n : {1, 21, 70}) {
    WindowedSessions sessions(*backend_, layer, 2);
    WindowedReference reference(layer);
    const WindowedSessions::Part source = MakePart(layer, 1, n);
    const WindowedSessions::Part target = MakePart(layer, 1, 9);
    sessions.Run({source}, LinearAttentionMode::kAccumulate);
    reference.Append(source.k, source.v);
    const Result state = reference.State();
    ExpectWithin(sessions.ReadState(1), state.out, state.bound);
    const Mat pool = sessions.ReadPool();
    const Mat got = sessions.Run({target}, LinearAttentionMode::kRead)[0];
    ExpectSameBits(sessions.ReadPool(), pool, "reading changed the state");
    const Result want = reference.Read(target.q);
    ExpectWithin(got, want.out, want.bound);
  }
}

// What is large enough to run over as e^u is a centroid's share all the same.
TEST_P(WindowedAttentionTest, CodebookWithoutAWindowKeepsToTheLogDomain) {
  WindowedLayer layer = MakeLayer({.features = 8, .window = 0, .rotary = false});
  for (double& bias : layer.query_bias.v) bias = static_cast<float>(bias + 300);
  WindowedSessions sessions(*backend_, layer, 1);
  WindowedReference reference(layer);
  const WindowedSessions::Part part = MakePart(layer, 0, 30);
  const Result want = reference.Run(part.q, part.k, part.v);
  ExpectWithin(sessions.Run({part})[0], want.out, want.bound);
}

// Sessions that are not in the batch, and the gaps between slots, keep their bits.
TEST_P(WindowedAttentionTest, TouchesOnlyTheSlotsOfTheBatch) {
  const WindowedLayer layer = MakeLayer({.features = 5, .d = 6, .window = 3, .fold = 2});
  WindowedSessions sessions(*backend_, layer, 5);
  std::vector<WindowedSessions::Part> all;
  for (int slot = 0; slot < 5; ++slot) all.push_back(MakePart(layer, slot, 9));
  sessions.Run(all);
  const Mat before = sessions.ReadPool();
  sessions.Run({MakePart(layer, 3, 3, 9), MakePart(layer, 1, 1, 9)});
  const Mat after = sessions.ReadPool();
  for (const int slot : {0, 2, 4}) {
    ExpectSameBits(after.Rows(slot, 1), before.Rows(slot, 1), "slot " + std::to_string(slot));
  }
  for (int slot = 0; slot < 5; ++slot) {
    for (int64_t i = after.cols - WindowedSessions::kGap; i < after.cols; ++i) {
      EXPECT_EQ(after.at(slot, i), WindowedSessions::kGapValue) << "behind slot " << slot;
    }
  }
}

// Outputs and states have the same bits however a prompt is split, at multiples of the backend's
// alignment, and whoever is beside it.
TEST_P(WindowedAttentionTest, BitsDoNotDependOnTheSplitOrTheNeighbours) {
  const int64_t unit = backend_->prompt_alignment();
  const int64_t n = unit == 1 ? 60 : 2 * unit + 1;
  std::vector<std::vector<int64_t>> splits = {{unit, n - unit}, {unit, unit, n - 2 * unit}};
  if (unit == 1) {
    splits.push_back(std::vector<int64_t>(static_cast<size_t>(n), 1));
    splits.push_back({7, 1, 20, 32});
  } else {
    splits.push_back({2 * unit, n - 2 * unit});
  }
  std::vector<WindowedCase> cases;
  for (const FeatureMapKind kind : kWindowedKinds) {
    cases.push_back({.kind = kind, .heads = 4, .groups = 2, .sinks = 3, .decay = true});
    cases.push_back({.kind = kind, .window = 12, .fold = 5, .rope_features = true});
  }
  cases.push_back({.features = 64, .d = 64, .heads = 9, .groups = 3, .window = 32, .sinks = 4});
  for (const DType dtype : {DType::kBFloat16, DType::kInt8}) {
    if (!backend_->keeps_windows_as(dtype)) continue;
    cases.push_back({.window = 9, .sinks = 1, .window_dtype = dtype});
  }
  cases.push_back({.window = 0});
  for (const WindowedCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << c);
    const WindowedLayer layer = MakeLayer(c);
    const WindowedSessions::Part all = MakePart(layer, 0, n);
    WindowedSessions whole(*backend_, layer, 4);
    const Mat want = whole.Run({all})[0];
    const std::vector<float> want_slot = whole.ReadSlot(0);
    for (const std::vector<int64_t>& split : splits) {
      WindowedSessions sessions(*backend_, layer, 4);
      int64_t at = 0;
      int64_t others = 0;
      for (const int64_t rows : split) {
        const Mat got = sessions.Run({MakePart(layer, 1, 1, others), Piece(all, 3, at, rows),
                                      MakePart(layer, 0, 3, 3 * others)})[1];
        ExpectSameBits(got, want.Rows(at, rows),
                       "rows " + std::to_string(at) + " + " + std::to_string(rows));
        at += rows;
        ++others;
      }
      const std::vector<float> slot = sessions.ReadSlot(3);
      EXPECT_TRUE(SameBits(slot.data(), want_slot.data(), slot.size())) << "state";
    }
  }
}

TEST_P(WindowedAttentionTest, ManySessionsDecodeAsEachAlone) {
  const WindowedLayer layer = MakeLayer({.heads = 8, .groups = 4, .window = 4, .sinks = 1});
  constexpr int kSlots = 40;
  WindowedSessions together(*backend_, layer, kSlots);
  WindowedSessions alone(*backend_, layer, kSlots);
  for (int64_t step = 0; step < 7; ++step) {
    std::vector<WindowedSessions::Part> parts;
    for (int slot = kSlots - 1; slot >= 0; --slot) parts.push_back(MakePart(layer, slot, 1, step));
    const std::vector<Mat> got = together.Run(parts);
    for (int i = 0; i < kSlots; ++i) {
      ExpectSameBits(alone.Run({parts[i]})[0], got[i], "session " + std::to_string(i));
    }
  }
}

// Each addition to S and z rounds; as independent errors they have a deviation of u √n / 3 of the
// sum after n tokens. Three deviations are u √n = 6e-5 at a million. Features are kept near 1 / M:
// those below half a unit of z would vanish, which is no independent error.
TEST_P(WindowedAttentionTest, SumsStayExactOverAMillionTokens) {
  constexpr int64_t kChunk = 8192;
  constexpr int64_t kChunks = 123;
  constexpr int64_t kWindow = 4;
  for (const int fold : {1, 16}) {
    WindowedLayer layer = MakeLayer(
        {.features = 4, .d = 4, .heads = 1, .window = kWindow, .fold = fold, .rotary = false});
    for (double& weight : layer.linear.weight.v) weight = static_cast<float>(weight * 0.1);
    WindowedSessions sessions(*backend_, layer, 1);
    Mat sums(1, layer.state_floats());
    WindowedSessions::Part part = MakePart(layer, 0, kChunk);
    for (double& v : part.v.v) v = static_cast<float>(v + 0.5);  // S grows with n too
    std::uniform_real_distribution<float> factor(0.5F, 1.5F);
    std::vector<WindowedSessions::Part> waiting;  // what is not folded yet
    int64_t folded = 0;
    for (int64_t chunk = 0; chunk < kChunks; ++chunk) {
      // New values in every chunk: repeated ones would round alike, and their errors would add up.
      WindowedSessions::Part mine = part;
      mine.position = chunk * kChunk;
      const float k_factor = factor(rng_);
      const float v_factor = factor(rng_);
      for (double& k : mine.k.v) k = static_cast<float>(k) * k_factor;
      for (double& v : mine.v.v) v = static_cast<float>(v) * v_factor;
      sessions.Run({mine});
      waiting.push_back(mine);
      const int64_t last = (chunk + 1) * kChunk - 1;
      const int64_t end = (last - kWindow + 1) / fold * fold;
      for (; folded < end; ++folded) {
        const WindowedSessions::Part& from =
            waiting[folded / kChunk - (chunk - std::min<int64_t>(chunk, 1))];
        const double* k = from.k.row(folded % kChunk);
        const double* v = from.v.row(folded % kChunk);
        double f[4];
        double total = 0;
        for (int m = 0; m < 4; ++m) {
          f[m] = layer.linear.bias.v[m];
          for (int j = 0; j < 4; ++j) f[m] += layer.linear.weight.at(m, j) * k[j];
          f[m] = std::exp(f[m]);
          total += f[m];
        }
        for (int m = 0; m < 4; ++m) {
          for (int j = 0; j < 4; ++j) sums.v[m * 4 + j] += f[m] / total * v[j];
          sums.v[16 + m] += f[m] / total;
        }
      }
      if (waiting.size() > 1) waiting.erase(waiting.begin());
    }
    const Mat got = sessions.ReadState(0);
    const double n = static_cast<double>(kChunk * kChunks);
    for (int64_t i = 0; i < got.cols; ++i) {
      EXPECT_NEAR(got.v[i] / sums.v[i], 1, kU * std::sqrt(n)) << i << ", fold " << fold;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, WindowedAttentionTest, ::testing::ValuesIn(AllBackends()),
                         CaseName);

}  // namespace
}  // namespace t2r::testing

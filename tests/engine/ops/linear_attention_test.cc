#include "tests/engine/ops/testing/linear_sessions.h"

namespace t2r::testing {
namespace {

class LinearAttentionTest : public LinearOpTest {
 protected:
  // A prompt of 21 tokens, then single ones, beside another session.
  void CheckAgainstFloat64(const LinearLayer& layer) {
    LinearSessions sessions = Sessions(layer, 3);
    LinearState first(layer);
    LinearState second(layer);
    for (const int64_t rows : {21, 1, 1, 6}) {
      const LinearSessions::Part a = MakePart(layer, 2, rows);
      const LinearSessions::Part b = MakePart(layer, 0, rows == 1 ? 4 : 1);
      const std::vector<Mat> got = sessions.Run({a, b});
      const Result want_a = LinearAttentionReference(layer, a.q, a.k, a.v, &first);
      const Result want_b = LinearAttentionReference(layer, b.q, b.k, b.v, &second);
      ExpectWithin(got[0], want_a.out, want_a.bound);
      ExpectWithin(got[1], want_b.out, want_b.bound);
    }
    ExpectWithin(sessions.ReadState(2), first.value, first.Bound(layer));
    ExpectWithin(sessions.ReadState(0), second.value, second.Bound(layer));
  }
};

TEST_P(LinearAttentionTest, EveryMapAgreesWithFloat64) {
  for (const FeatureMapKind kind : kKinds) {
    for (const Normalizer normalizer : {Normalizer::kClamp, Normalizer::kAdd}) {
      for (const bool folded : {false, true}) {
        if (folded && (kind == FeatureMapKind::kElu || kind == FeatureMapKind::kRfa)) continue;
        for (const auto& [features, d, heads, groups] :
             std::vector<std::tuple<int, int, int, int>>{{4, 8, 1, 1},
                                                         {32, 8, 8, 4},
                                                         {64, 64, 9, 3},
                                                         {128, 128, 2, 1},
                                                         {10, 80, 5, 5},
                                                         {6, 7, 4, 1}}) {
          SCOPED_TRACE(::testing::Message()
                       << kKindNames[static_cast<int>(kind)] << ", k " << features << ", d " << d
                       << ", " << heads << " heads, " << groups << " groups, normaliser "
                       << static_cast<int>(normalizer) << ", folded " << folded);
          CheckAgainstFloat64(MakeLayer(kind, features, d, heads, groups, normalizer, folded));
        }
      }
    }
  }
}

// Sessions that are not in the batch, and the gaps between slots, keep their bits.
TEST_P(LinearAttentionTest, TouchesOnlyTheSlotsOfTheBatch) {
  const LinearLayer layer =
      MakeLayer(FeatureMapKind::kT2r, 12, 10, 4, 2, Normalizer::kClamp, false);
  const int64_t floats = layer.state_floats();
  const Mat before = Random(6, floats + 5);
  LinearSessions sessions(*backend_, layer, before);
  sessions.Run({MakePart(layer, 4, 3), MakePart(layer, 1, 1)});
  const Mat after = sessions.ReadPool();
  for (const int slot : {0, 2, 3, 5}) {
    ExpectSameBits(after.Rows(slot, 1), before.Rows(slot, 1), "slot " + std::to_string(slot));
  }
  for (const int slot : {1, 4}) {
    EXPECT_NE(after.Rows(slot, 1).v, before.Rows(slot, 1).v) << "slot " << slot << " not advanced";
    for (int64_t i = floats; i < floats + 5; ++i) {
      EXPECT_EQ(after.at(slot, i), before.at(slot, i)) << "gap after slot " << slot;
    }
  }
}

// Outputs and states have the same bits however a prompt is split, at multiples of the backend's
// alignment, and whoever is beside it.
TEST_P(LinearAttentionTest, BitsDoNotDependOnTheSplitOrTheNeighbours) {
  const int64_t unit = backend_->prompt_alignment();
  // A last piece of one row too, as it comes while decoding.
  const int64_t n = unit == 1 ? 40 : 2 * unit + 1;
  std::vector<std::vector<int64_t>> splits = {{unit, n - unit}, {unit, unit, n - 2 * unit}};
  if (unit == 1) {
    splits.push_back(std::vector<int64_t>(n, 1));
    splits.push_back({16, 16, 8});
    splits.push_back({7, 1, 20, 12});
  } else {
    splits.push_back({2 * unit, n - 2 * unit});
  }
  for (const FeatureMapKind kind : kKinds) {
    for (const auto& [features, d, heads, groups] : std::vector<std::tuple<int, int, int, int>>{
             {32, 8, 8, 4}, {64, 64, 9, 3}, {10, 20, 2, 2}}) {
      const LinearLayer layer =
          MakeLayer(kind, features, d, heads, groups, Normalizer::kClamp, false);
      const LinearSessions::Part all = MakePart(layer, 0, n);
      LinearSessions whole = Sessions(layer, 4);
      const Mat want = whole.Run({all})[0];
      const Mat want_state = whole.ReadState(0);
      for (const std::vector<int64_t>& split : splits) {
        LinearSessions sessions = Sessions(layer, 4);
        int64_t at = 0;
        for (const int64_t rows : split) {
          const LinearSessions::Part mine = {3, all.q.Rows(at, rows), all.k.Rows(at, rows),
                                             all.v.Rows(at, rows), at};
          const Mat got = sessions.Run({MakePart(layer, 1, 1), mine, MakePart(layer, 0, 3)})[1];
          ExpectSameBits(got, want.Rows(at, rows),
                         std::string(kKindNames[static_cast<int>(kind)]) + " rows " +
                             std::to_string(at) + " + " + std::to_string(rows));
          at += rows;
        }
        ExpectSameBits(sessions.ReadState(3), want_state, "state");
      }
    }
  }
}

TEST_P(LinearAttentionTest, ManySessionsDecodeAsEachAlone) {
  const LinearLayer layer = MakeLayer(FeatureMapKind::kT2r, 32, 8, 8, 4, Normalizer::kClamp, false);
  constexpr int kSlots = 64;
  LinearSessions together = Sessions(layer, kSlots);
  LinearSessions alone = Sessions(layer, kSlots);
  for (int step = 0; step < 3; ++step) {
    std::vector<LinearSessions::Part> parts;
    for (int slot = kSlots - 1; slot >= 0; --slot) parts.push_back(MakePart(layer, slot, 1));
    const std::vector<Mat> got = together.Run(parts);
    for (int i = 0; i < kSlots; ++i) {
      ExpectSameBits(alone.Run({parts[i]})[0], got[i], "session " + std::to_string(i));
    }
  }
  ExpectSameBits(alone.ReadPool(), together.ReadPool(), "states");
}

TEST_P(LinearAttentionTest, QueryScaleActsOnQueriesOnly) {
  LinearLayer layer = MakeLayer(FeatureMapKind::kElu, 8, 8, 1, 1, Normalizer::kClamp, false);
  const LinearSessions::Part part = MakePart(layer, 0, 5);
  LinearSessions scaled = Sessions(layer, 1);
  const Mat with = scaled.Run({part})[0];
  layer.map.query_scale = 1;
  LinearSessions plain = Sessions(layer, 1);
  const Mat without = plain.Run({part})[0];
  ExpectSameBits(scaled.ReadPool(), plain.ReadPool(), "state depends on the query's scale");
  EXPECT_NE(with.v, without.v);
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearAttentionTest, ::testing::ValuesIn(AllBackends()),
                         CaseName);

}  // namespace
}  // namespace t2r::testing

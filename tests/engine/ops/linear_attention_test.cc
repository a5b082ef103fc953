#include "tests/engine/ops/testing/linear_sessions.h"

namespace t2r::testing {
namespace {

constexpr FeatureMapKind kKinds[] = {FeatureMapKind::kT2r, FeatureMapKind::kElu,
                                     FeatureMapKind::kRfa, FeatureMapKind::kHedgehog};
const char* const kKindNames[] = {"t2r", "elu", "rfa", "hedgehog"};

class LinearAttentionTest : public OpTest {
 protected:
  LinearLayer MakeLayer(FeatureMapKind kind, int features, int d, int heads, int groups,
                        Normalizer normalizer, bool folded) {
    LinearLayer layer;
    layer.heads = heads;
    layer.groups = groups;
    layer.head_dim = d;
    layer.map.kind = kind;
    layer.map.features = kind == FeatureMapKind::kElu ? d : features;
    layer.map.query_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
    layer.map.folded = folded;
    layer.normalizer = normalizer;
    layer.eps = normalizer == Normalizer::kClamp ? static_cast<double>(1e-2F) : 1e-6F;
    const int64_t p = layer.map.projected_features();
    // An rfa projection's rows are standard normal; the others keep pre-activations near 1.
    const double scale = kind == FeatureMapKind::kRfa ? 1.0 : 1 / std::sqrt(static_cast<double>(d));
    if (p > 0 && !folded) layer.weight = Random(groups * p, d, scale);
    if (kind == FeatureMapKind::kT2r && !folded) layer.bias = Random(groups, features, 0.5);
    return layer;
  }

  LinearSessions::Part MakePart(const LinearLayer& layer, int slot, int64_t rows) {
    return {slot, Random(rows, layer.heads * layer.width()),
            Random(rows, layer.groups * layer.width()),
            Random(rows, static_cast<int64_t>(layer.groups) * layer.head_dim)};
  }

  LinearSessions Sessions(const LinearLayer& layer, int slots) {
    return LinearSessions(*backend_, layer, Mat(slots, layer.state_floats() + 8));
  }

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

// Outputs and states have the same bits however a prompt is split and whoever is beside it.
TEST_P(LinearAttentionTest, BitsDoNotDependOnTheSplitOrTheNeighbours) {
  constexpr int64_t kN = 40;
  for (const FeatureMapKind kind : kKinds) {
    for (const auto& [features, d, heads, groups] : std::vector<std::tuple<int, int, int, int>>{
             {32, 8, 8, 4}, {64, 64, 9, 3}, {10, 20, 2, 2}}) {
      const LinearLayer layer =
          MakeLayer(kind, features, d, heads, groups, Normalizer::kClamp, false);
      const LinearSessions::Part all = MakePart(layer, 0, kN);
      LinearSessions whole = Sessions(layer, 4);
      const Mat want = whole.Run({all})[0];
      const Mat want_state = whole.ReadState(0);
      for (const std::vector<int64_t>& split :
           {std::vector<int64_t>(kN, 1), {1, 39}, {16, 16, 8}, {7, 1, 20, 12}}) {
        LinearSessions sessions = Sessions(layer, 4);
        int64_t at = 0;
        for (const int64_t rows : split) {
          const LinearSessions::Part mine = {3, all.q.Rows(at, rows), all.k.Rows(at, rows),
                                             all.v.Rows(at, rows)};
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

// Cross attention: the state takes a source once, then any number of queries read it.
TEST_P(LinearAttentionTest, AccumulateThenRead) {
  for (const FeatureMapKind kind : kKinds) {
    for (const auto& [features, d, heads, groups] : std::vector<std::tuple<int, int, int, int>>{
             {32, 8, 8, 4}, {64, 64, 9, 3}, {10, 7, 6, 1}}) {
      const LinearLayer layer =
          MakeLayer(kind, features, d, heads, groups, Normalizer::kClamp, false);
      SCOPED_TRACE(::testing::Message() << kKindNames[static_cast<int>(kind)] << ", d " << d);
      LinearSessions sessions = Sessions(layer, 3);
      const LinearSessions::Part source = MakePart(layer, 2, 21);
      const LinearSessions::Part other = MakePart(layer, 0, 5);
      sessions.Run({source, other}, LinearAttentionMode::kAccumulate);
      LinearState state(layer);
      LinearAttentionReference(layer, source.q.Rows(0, 20), source.k.Rows(0, 20),
                               source.v.Rows(0, 20), &state);
      const LinearState before_last = state;
      const Mat last_k = source.k.Rows(20, 1);
      const Mat last_v = source.v.Rows(20, 1);
      LinearAttentionReference(layer, source.q.Rows(20, 1), last_k, last_v, &state);
      ExpectWithin(sessions.ReadState(2), state.value, state.Bound(layer));

      const Mat pool = sessions.ReadPool();
      const LinearSessions::Part queries = MakePart(layer, 2, 3);
      const Mat got = sessions.Run({MakePart(layer, 0, 1), queries}, LinearAttentionMode::kRead)[1];
      ExpectSameBits(sessions.ReadPool(), pool, "reading changed a state");
      for (int64_t r = 0; r < 3; ++r) {
        LinearState at = before_last;  // as if the query stood at the source's last token
        const Result want =
            LinearAttentionReference(layer, queries.q.Rows(r, 1), last_k, last_v, &at);
        ExpectWithin(got.Rows(r, 1), want.out, want.bound);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearAttentionTest, ::testing::ValuesIn(AllBackends()),
                         CaseName);

}  // namespace
}  // namespace t2r::testing

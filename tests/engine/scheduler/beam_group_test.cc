#include "engine/scheduler/beam_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>

namespace t2r {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

BeamParams Params(int count) {
  BeamParams params;
  params.count = count;
  return params;
}

ChunkResult Result(std::vector<TokenLogprob> top) {
  ChunkResult result;
  result.top = std::move(top);
  return result;
}

// What each slot has consumed, kept as an executor would.
class Slots {
 public:
  explicit Slots(BeamGroup* group) : group_(group) {}

  // A whole round; `top` makes each beam's alternatives from what its slot has consumed.
  template <typename Top>
  void Round(Top top) {
    std::set<int> seen;
    std::vector<ChunkResult> results;
    for (int64_t i = 0; i < group_->due(); ++i) {
      const ScheduledChunk chunk = group_->NextChunk(i);
      EXPECT_TRUE(seen.insert(chunk.slot).second) << "two beams in slot " << chunk.slot;
      if (begun_) consumed_[chunk.slot].push_back(chunk.tokens[0]);
      results.push_back(Result(top(consumed_[chunk.slot])));
    }
    begun_ = true;
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(group_->Accept(std::move(results[i])), i + 1 == results.size());
    }
    std::set<int> sources, targets;
    const auto copies = group_->TakeCopies();
    for (const BeamGroup::Copy& copy : copies) {
      sources.insert(copy.from);
      EXPECT_TRUE(targets.insert(copy.to).second) << "slot " << copy.to << " is written twice";
      consumed_[copy.to] = consumed_[copy.from];
    }
    for (const int slot : targets) EXPECT_EQ(sources.count(slot), 0U) << slot;
    last_copies_ = copies.size();
    EXPECT_THAT(group_->TakeCopies(), IsEmpty());
  }

  std::vector<int32_t> consumed(int64_t beam) { return consumed_[group_->NextChunk(beam).slot]; }
  size_t last_copies() const { return last_copies_; }

 private:
  BeamGroup* group_;
  bool begun_ = false;
  std::map<int, std::vector<int32_t>> consumed_;
  size_t last_copies_ = 0;
};

BeamGroup Group(int count, int64_t max_tokens, int vocab = 1000) {
  return BeamGroup(BeamSearch(Params(count), max_tokens, {}, {}), vocab);
}

TEST(BeamGroupTest, ThePromptRunsInOneSlotThenForks) {
  BeamGroup group = Group(3, 5);
  group.Open({7, 2, 5});
  EXPECT_THAT(group.slots(), ElementsAre(7, 2, 5));
  ASSERT_EQ(group.due(), 1);
  EXPECT_EQ(group.NextChunk(0).slot, 7);
  EXPECT_TRUE(group.NextChunk(0).sample);
  EXPECT_EQ(group.NextChunk(0).top_logprobs, 3);
  EXPECT_TRUE(group.Accept(Result({{10, -1}, {11, -2}, {12, -3}})));
  const auto copies = group.TakeCopies();
  ASSERT_THAT(copies, SizeIs(2));
  for (const auto& copy : copies) EXPECT_EQ(copy.from, 7);
  EXPECT_EQ(copies[0].to, 2);
  EXPECT_EQ(copies[1].to, 5);
  ASSERT_EQ(group.due(), 3);
  EXPECT_EQ(group.NextChunk(0).tokens[0], 10);
  EXPECT_EQ(group.NextChunk(0).slot, 7);
  EXPECT_EQ(group.NextChunk(2).tokens[0], 12);
  EXPECT_EQ(group.NextChunk(2).slot, 5);
}

// Beams that only change places are not copied at all, cycles included.
TEST(BeamGroupTest, APermutationNeedsNoCopy) {
  BeamGroup group = Group(3, 50);
  group.Open({0, 1, 2});
  Slots slots(&group);
  slots.Round([](const auto&) {
    return std::vector<TokenLogprob>{{1, -1.0F}, {2, -1.1F}, {3, -1.2F}};
  });
  EXPECT_EQ(slots.last_copies(), 2U);
  for (int round = 0; round < 6; ++round) {
    // Each beam has one child worth having; the best beam falls behind the others.
    int rank = 0;
    slots.Round([&rank](const auto&) {
      const float good = rank == 0 ? -1.0F : -0.01F;
      ++rank;
      return std::vector<TokenLogprob>{{9, good}, {8, -50.0F}, {7, -60.0F}};
    });
    EXPECT_EQ(slots.last_copies(), 0U);
    std::set<int32_t> firsts;
    for (int64_t beam = 0; beam < 3; ++beam) {
      firsts.insert(slots.consumed(beam).empty() ? -1 : slots.consumed(beam)[0]);
    }
    if (round > 0) {
      EXPECT_EQ(firsts, (std::set<int32_t>{1, 2, 3}));
    }
  }
}

// Random parents over many rounds: each beam's slot has consumed just what the beam says, and a
// round copies as many states as it has beams less beams with children.
TEST(BeamGroupTest, SlotsHoldWhatTheirBeamsGenerated) {
  constexpr int kBeams = 6;
  BeamGroup group = Group(kBeams, 1000);
  group.Open({3, 1, 4, 0, 5, 2});
  Slots slots(&group);
  uint32_t random = 7;
  const auto draw = [&random] {
    random = random * 1664525 + 1013904223;
    return random >> 8;
  };
  int32_t next_token = 0;
  std::map<int32_t, std::vector<int32_t>> paths;  // by last token, which is never used again
  size_t copied = 0;
  for (int round = 0; round < 300; ++round) {
    std::set<int32_t> parents;
    std::map<int32_t, int32_t> parent_of;
    slots.Round([&](const std::vector<int32_t>& consumed) {
      std::vector<TokenLogprob> top;
      for (int i = 0; i < kBeams; ++i) {
        const int32_t token = next_token++;
        parent_of[token] = consumed.empty() ? -1 : consumed.back();
        paths[token] = consumed;
        paths[token].push_back(token);
        top.push_back({token, -static_cast<float>(draw() % 1000) / 100.0F});
      }
      return top;
    });
    ASSERT_EQ(group.due(), kBeams);
    for (int64_t beam = 0; beam < kBeams; ++beam) {
      const int32_t token = group.NextChunk(beam).tokens[0];
      auto expected = paths.at(token);
      expected.pop_back();
      EXPECT_EQ(slots.consumed(beam), expected) << round;
      parents.insert(parent_of.at(token));
    }
    EXPECT_EQ(slots.last_copies(), kBeams - parents.size());
    copied += slots.last_copies();
  }
  EXPECT_GT(copied, 300U);
  EXPECT_LT(copied, 300U * (kBeams - 1));
}

TEST(BeamGroupTest, ARoundMayComeInParts) {
  BeamGroup group = Group(2, 3);
  group.Open({0, 1});
  EXPECT_TRUE(group.Accept(Result({{5, -1}, {6, -2}})));
  EXPECT_THAT(group.TakeCopies(), SizeIs(1));
  EXPECT_EQ(group.due(), 2);
  EXPECT_FALSE(group.Accept(Result({{7, -1}, {8, -1.5F}})));
  EXPECT_EQ(group.due(), 1);
  EXPECT_EQ(group.NextChunk(0).tokens[0], 6);
  EXPECT_THAT(group.TakeCopies(), IsEmpty());
  EXPECT_TRUE(group.Accept(Result({{9, -9}, {8, -9}})));
  EXPECT_EQ(group.due(), 2);
  EXPECT_FALSE(group.done());
  EXPECT_FALSE(group.Accept(Result({{1, -1}, {2, -2}})));
  EXPECT_TRUE(group.Accept(Result({{1, -1}, {2, -2}})));
  EXPECT_TRUE(group.done());
  ASSERT_THAT(group.hypotheses(), SizeIs(2));
  EXPECT_THAT(group.hypotheses()[0].tokens, ElementsAre(5, 7, 1));
}

TEST(BeamGroupTest, AsksForNoMoreThanTheVocabulary) {
  BeamGroup group = Group(4, 3, 3);
  group.Open({0, 1, 2, 3});
  EXPECT_EQ(group.NextChunk(0).top_logprobs, 3);
  EXPECT_TRUE(group.Accept(Result({{0, -1}, {1, -1}, {2, -1}})));
  EXPECT_EQ(group.due(), 3) << "the fourth slot waits";
  EXPECT_THAT(group.TakeCopies(), SizeIs(2));
}

}  // namespace
}  // namespace t2r

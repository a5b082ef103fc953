#include "engine/prefix/prefix_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

namespace t2r {
namespace {

using Tokens = std::vector<int32_t>;

// `count` tokens that no other `first` begins with.
Tokens Row(int32_t first, int count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

Tokens Join(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class PrefixTreeTest : public ::testing::Test {
 protected:
  void Store(const Tokens& tokens, int state, bool spare = false) {
    tree_.Store("", tokens, state, spare);
  }
  // The states in the order in which they go.
  std::vector<int> Order() {
    std::vector<int> order;
    for (int state = tree_.Evict(false); state >= 0; state = tree_.Evict(false)) {
      order.push_back(state);
    }
    return order;
  }
  PrefixTree tree_{PrefixTree::Options()};
};

TEST_F(PrefixTreeTest, FindsTheLongestBeginningWithAStateAndTheLongestThatIsKnown) {
  const Tokens prompt = Row(100, 50);
  EXPECT_EQ(tree_.Find("", prompt).known, 0);
  tree_.Learn("", prompt);
  Store(Row(100, 20), 7);
  Store(Row(100, 40), 8);
  PrefixTree::Found found = tree_.Find("", Join(Row(100, 30), Row(900, 9)));
  EXPECT_EQ(found.stored, 20);
  EXPECT_EQ(found.state, 7);
  EXPECT_EQ(found.known, 30);
  found = tree_.Find("", Row(100, 60));
  EXPECT_EQ(found.stored, 40);
  EXPECT_EQ(found.state, 8);
  EXPECT_EQ(found.known, 50);
  found = tree_.Find("", Row(100, 19));
  EXPECT_EQ(found.stored, 0);
  EXPECT_EQ(found.state, -1);
  EXPECT_EQ(found.known, 19);
  EXPECT_TRUE(tree_.Has("", Row(100, 20)));
  EXPECT_FALSE(tree_.Has("", Row(100, 21)));
  EXPECT_EQ(tree_.states(), 2);
  EXPECT_EQ(tree_.tokens(), 50);
}

TEST_F(PrefixTreeTest, TenantsKnowNothingOfEachOther) {
  const Tokens prompt = Row(100, 50);
  tree_.Store("a", prompt, 1, false);
  EXPECT_EQ(tree_.Find("a", prompt).stored, 50);
  for (const char* const other : {"", "b", "aa"}) {
    const PrefixTree::Found found = tree_.Find(other, prompt);
    EXPECT_EQ(found.stored, 0);
    EXPECT_EQ(found.known, 0);
    EXPECT_FALSE(tree_.Has(other, prompt));
  }
}

TEST_F(PrefixTreeTest, TheStateThatSavesLeastGoesFirst) {
  Store(Row(0, 30), 0);
  Store(Row(1000, 10), 1);
  Store(Row(2000, 20), 2);
  EXPECT_EQ(Order(), (std::vector<int>{1, 2, 0}));
}

TEST_F(PrefixTreeTest, WhatIsNotUsedFallsBehindWhatComes) {
  Store(Row(0, 30), 0);
  Store(Row(1000, 25), 1);
  EXPECT_EQ(tree_.Evict(false), 1);  // the clock: 25
  Store(Row(2000, 10), 2);           // 35, before which goes 30
  EXPECT_EQ(Order(), (std::vector<int>{0, 2}));
}

TEST_F(PrefixTreeTest, BeingUsedCountsAsComingAnew) {
  Store(Row(0, 30), 0);
  Store(Row(1000, 25), 1);
  EXPECT_EQ(tree_.Evict(false), 1);
  tree_.Find("", Row(0, 30));  // 55
  Store(Row(2000, 10), 2);
  EXPECT_EQ(Order(), (std::vector<int>{2, 0}));
}

// A state saves what the one before it does not.
TEST_F(PrefixTreeTest, AStateIsWorthWhatItAdds) {
  const Tokens system = Row(0, 50);
  Store(Join(system, Row(500, 8)), 0);
  Store(Join(system, Row(600, 90)), 1);
  Store(system, 2);  // a branch: others are beyond it on two ways
  tree_.Find("", Join(system, Row(500, 8)));
  tree_.Find("", Join(system, Row(600, 90)));
  EXPECT_EQ(Order(), (std::vector<int>{0, 2, 1}));
}

TEST_F(PrefixTreeTest, WhatAStateAddsGrowsWhenTheOneBeforeItGoes) {
  const Tokens system = Row(0, 10);
  tree_.Learn("", Join(system, Row(800, 5)));
  Store(system, 0);                      // 10
  Store(Join(system, Row(500, 50)), 1);  // 50, and 60 once 0 has gone
  Store(Row(2000, 55), 2);
  EXPECT_EQ(Order(), (std::vector<int>{0, 2, 1}));
}

TEST_F(PrefixTreeTest, AStateThatALongerOneContinuesIsASpareFromThenOn) {
  Store(Row(0, 90), 0);
  Store(Row(1000, 10), 1);
  Store(Row(0, 95), 2);
  EXPECT_EQ(tree_.Evict(true), 0);
  EXPECT_EQ(tree_.Evict(true), -1);
  EXPECT_EQ(Order(), (std::vector<int>{1, 2})) << "95 again, without one before it";
}

TEST_F(PrefixTreeTest, SparesGoFirstByTheirLastUseAndAreNoneOnceTheyServed) {
  Store(Row(0, 10), 0);
  Store(Row(1000, 900), 1, true);
  Store(Row(2000, 900), 2, true);
  Store(Row(3000, 900), 3, true);
  EXPECT_EQ(tree_.Find("", Row(1000, 950)).state, 1);
  EXPECT_EQ(tree_.Evict(true), 2);
  EXPECT_EQ(Order(), (std::vector<int>{3, 0, 1}));
}

TEST(PrefixTreeValueTest, BytesAndPairsCount) {
  PrefixTree::Options options;
  options.state_bytes = 100;
  options.position_bytes = 10;
  PrefixTree tree(options);
  tree.Store("", Row(0, 100), 0, false);    // 100 / 1,100
  tree.Store("", Row(1000, 10), 1, false);  // 10 / 200
  EXPECT_EQ(tree.Evict(false), 1);
  options.state_bytes = 1;
  options.pair_cost = 1;
  PrefixTree pairs(options);
  pairs.Store("", Row(0, 100), 0, false);  // (100 + 5,000) / 1,001, about 5
  pairs.Store("", Row(1000, 40), 1, false);
  EXPECT_EQ(pairs.Evict(false), 1);
}

TEST(PrefixTreeValueTest, WithoutCostsTheLeastRecentlyUsedGoes) {
  PrefixTree::Options options;
  options.token_cost = 0;
  PrefixTree tree(options);
  for (int i = 0; i < 4; ++i) tree.Store("", Row(1000 * i, 10 + i), i, false);
  tree.Find("", Row(0, 100));
  std::vector<int> order;
  for (int state = tree.Evict(false); state >= 0; state = tree.Evict(false)) order.push_back(state);
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 0}));
}

TEST(PrefixTreeLimitTest, OldPromptsAreForgottenAndStatesNever) {
  PrefixTree::Options options;
  options.max_tokens = 100;
  PrefixTree tree(options);
  tree.Store("", Row(0, 80), 0, false);
  tree.Learn("", Row(1000, 15));
  tree.Learn("", Row(2000, 5));
  EXPECT_EQ(tree.Find("", Row(1000, 15)).known, 15);
  tree.Learn("", Row(3000, 2));
  EXPECT_EQ(tree.Find("", Row(1000, 15)).known, 0);
  EXPECT_EQ(tree.Find("", Row(2000, 5)).known, 5);
  EXPECT_EQ(tree.tokens(), 87);
  EXPECT_FALSE(tree.full());
  tree.Store("", Row(4000, 60), 1, false);
  EXPECT_EQ(tree.tokens(), 140);
  EXPECT_TRUE(tree.full());
  EXPECT_EQ(tree.Evict(false), 1);
  EXPECT_EQ(tree.tokens(), 80);
}

TEST(PrefixTreeLimitTest, SoManyPromptsAreKnown) {
  PrefixTree::Options options;
  options.max_prompts = 3;
  PrefixTree tree(options);
  for (int i = 0; i < 10; ++i) tree.Learn(i % 2 == 0 ? "a" : "b", Row(1000 * i, 10));
  EXPECT_EQ(tree.tokens(), 30);
  EXPECT_EQ(tree.Find("a", Row(8000, 10)).known, 10);
  EXPECT_EQ(tree.Find("b", Row(5000, 10)).known, 0);
}

// Against a list of all sequences, looked through one by one.
TEST(PrefixTreeRandomTest, IsTheListOfItsSequences) {
  std::mt19937 random(5);
  const auto draw = [&random](int n) { return static_cast<int>(random() % n); };
  PrefixTree tree{PrefixTree::Options()};
  std::map<std::pair<std::string, Tokens>, int> states;
  std::vector<std::pair<std::string, Tokens>> known;
  int next = 0;
  for (int round = 0; round < 4000; ++round) {
    const std::string tenant(1, static_cast<char>('a' + draw(2)));
    Tokens tokens(1 + draw(12));
    for (int32_t& token : tokens) token = draw(2);
    int64_t stored = 0;
    int64_t longest = 0;
    int state = -1;
    for (const auto& [whose, other] : known) {
      if (whose != tenant) continue;
      const auto [mine, theirs] =
          std::mismatch(tokens.begin(), tokens.end(), other.begin(), other.end());
      longest = std::max<int64_t>(longest, mine - tokens.begin());
      const auto found = states.find({whose, other});
      if (found == states.end() || theirs != other.end()) continue;
      if (static_cast<int64_t>(other.size()) > stored) {
        stored = static_cast<int64_t>(other.size());
        state = found->second;
      }
    }
    const PrefixTree::Found found = tree.Find(tenant, tokens);
    ASSERT_EQ(found.known, longest);
    ASSERT_EQ(found.stored, stored);
    ASSERT_EQ(found.state, state);
    ASSERT_EQ(tree.Has(tenant, tokens), states.contains({tenant, tokens}));
    if (draw(3) == 0 && !states.contains({tenant, tokens})) {
      tree.Store(tenant, tokens, next, draw(2) == 0);
      states[{tenant, tokens}] = next++;
      known.emplace_back(tenant, tokens);
    } else if (draw(2) == 0) {
      tree.Learn(tenant, tokens);
      known.emplace_back(tenant, tokens);
    }
    if (draw(4) == 0 || tree.states() > 30) {
      const int gone = tree.Evict(false);
      ASSERT_EQ(std::erase_if(states, [gone](const auto& it) { return it.second == gone; }),
                gone < 0 ? 0U : 1U);
    }
    ASSERT_EQ(tree.states(), static_cast<int64_t>(states.size()));
  }
}

}  // namespace
}  // namespace t2r

#include "engine/scheduler/beam_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "tests/engine/scheduler/testing/beam_reference.h"
#include "tests/engine/scheduler/testing/fake_executor.h"

namespace t2r {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// The n most likely of them.
std::vector<TokenLogprob> TopOf(const std::vector<double>& logprobs, int64_t n) {
  std::vector<TokenLogprob> top;
  for (size_t i = 0; i < logprobs.size(); ++i) {
    top.push_back({static_cast<int32_t>(i), static_cast<float>(logprobs[i])});
  }
  std::stable_sort(top.begin(), top.end(), [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob > b.logprob;
  });
  top.resize(std::min(top.size(), static_cast<size_t>(n)));
  return top;
}

// Runs a search to its end, keeping what each beam has generated.
class Search {
 public:
  Search(NextLogprobs next, const BeamParams& params, int64_t max_tokens,
         std::vector<int32_t> terminal_ids = {}, std::vector<int32_t> suppressed_ids = {})
      : next_(std::move(next)),
        search_(params, max_tokens, std::move(terminal_ids), std::move(suppressed_ids)),
        generated_(1) {}

  void Step() {
    std::vector<std::vector<TokenLogprob>> tops;
    for (const auto& generated : generated_) {
      tops.push_back(TopOf(next_(generated), search_.alternatives()));
    }
    search_.Advance(tops);
    std::vector<std::vector<int32_t>> longer;
    for (const BeamSearch::Beam& beam : search_.beams()) {
      longer.push_back(generated_.at(static_cast<size_t>(beam.parent)));
      longer.back().push_back(beam.token);
    }
    generated_ = std::move(longer);
    ++steps_;
  }
  const BeamSearch& Run() {
    while (!search_.done()) Step();
    return search_;
  }

  const BeamSearch& search() const { return search_; }
  const std::vector<std::vector<int32_t>>& generated() const { return generated_; }
  int64_t steps() const { return steps_; }

 private:
  NextLogprobs next_;
  BeamSearch search_;
  std::vector<std::vector<int32_t>> generated_;
  int64_t steps_ = 0;
};

// The same row at every step.
NextLogprobs Always(std::vector<double> probabilities) {
  for (double& p : probabilities) p = std::log(p);
  return [logprobs = std::move(probabilities)](std::span<const int32_t>) { return logprobs; };
}

BeamParams Params(int count, float length_penalty = 1,
                  EarlyStopping early_stopping = EarlyStopping::kFalse) {
  BeamParams params;
  params.count = count;
  params.length_penalty = length_penalty;
  params.early_stopping = early_stopping;
  return params;
}

// A model whose distributions depend on all that was generated, with end tokens 0 to ends − 1 that
// grow likelier with `pull`.
NextLogprobs RandomModel(int32_t seed, int vocab, int ends, double pull) {
  return [=](std::span<const int32_t> generated) {
    std::vector<int32_t> history = {seed};
    history.insert(history.end(), generated.begin(), generated.end());
    std::vector<double> logprobs(static_cast<size_t>(vocab), 0.0);
    for (const TokenLogprob& each : MixAlternatives(history, vocab, vocab)) {
      logprobs[static_cast<size_t>(each.token)] =
          double{each.logprob} + (each.token < ends ? pull : 0);
    }
    double sum = 0;
    for (const double value : logprobs) sum += std::exp(value);
    // As the engine gives them: float32.
    for (double& value : logprobs) {
      value = double{static_cast<float>(value - std::log(sum))};
    }
    return logprobs;
  };
}

TEST(BeamSearchTest, EqualsTheReference) {
  constexpr int kVocab = 40;
  int cases = 0, early = 0, full_length = 0;
  for (const int count : {1, 2, 4, 7}) {
    for (const float penalty : {0.0F, 1.0F, 2.0F, -1.0F, 0.6F}) {
      for (const auto stopping :
           {EarlyStopping::kFalse, EarlyStopping::kTrue, EarlyStopping::kNever}) {
        for (const int ends : {0, 1, 3}) {
          for (const double pull : {-4.0, 0.0, 3.0}) {
            const auto model = RandomModel(cases, kVocab, ends, pull);
            std::vector<int32_t> terminal;
            for (int32_t i = 0; i < ends; ++i) terminal.push_back(i);
            const BeamParams params = Params(count, penalty, stopping);
            const auto expected = ReferenceBeams(model, params, 12, terminal);
            Search search(model, params, 12, terminal);
            const auto& found = search.Run().hypotheses();
            SCOPED_TRACE(testing::Message()
                         << count << " beams, length penalty " << penalty << ", stopping "
                         << static_cast<int>(stopping) << ", " << ends << " ends, pull " << pull);
            ASSERT_EQ(found.size(), expected.size());
            for (size_t i = 0; i < found.size(); ++i) {
              EXPECT_EQ(found[i].tokens, expected[i].tokens) << i;
              EXPECT_NEAR(found[i].score, expected[i].score, 1e-9) << i;
            }
            ++cases;
            early += search.steps() < 12 ? 1 : 0;
            full_length += search.steps() == 12 ? 1 : 0;
          }
        }
      }
    }
  }
  EXPECT_GT(early, cases / 5);
  EXPECT_GT(full_length, cases / 5);
}

// Two beams over {a, b, end} with p = .5, .3, .2. By hand:
//   step 1: a .5, b .3, end .2 (third: dropped)
//   step 2: aa .25, ab .15, ba .15, a-end .1, …: none of the first two ends
//   step 3: aaa .125, aab .075 and aba .075 (the better parent first), …
TEST(BeamSearchTest, EndsBelowTheFirstPlacesAreDropped) {
  Search search(Always({.5, .3, .2}), Params(2), 3, {2});
  search.Step();
  EXPECT_THAT(search.generated(), ElementsAre(ElementsAre(0), ElementsAre(1)));
  EXPECT_NEAR(search.search().beams()[0].logprob, std::log(.5), 1e-6);
  search.Step();
  EXPECT_THAT(search.generated(), ElementsAre(ElementsAre(0, 0), ElementsAre(0, 1)));
  EXPECT_FALSE(search.search().done());
  EXPECT_THAT(search.search().hypotheses(), IsEmpty());
  const BeamSearch& done = search.Run();
  ASSERT_THAT(done.hypotheses(), SizeIs(2));
  EXPECT_THAT(done.hypotheses()[0].tokens, ElementsAre(0, 0, 0));
  EXPECT_THAT(done.hypotheses()[1].tokens, ElementsAre(0, 0, 1));
  EXPECT_NEAR(done.hypotheses()[0].score, std::log(.125) / 3, 1e-6);
  EXPECT_NEAR(done.hypotheses()[1].score, std::log(.075) / 3, 1e-6);
}

// One beam is greedy decoding, whatever early_stopping says.
TEST(BeamSearchTest, OneBeamIsGreedy) {
  for (const auto stopping : {EarlyStopping::kFalse, EarlyStopping::kTrue, EarlyStopping::kNever}) {
    Search search(
        [](std::span<const int32_t> generated) {
          return generated.size() < 2 ? std::vector{std::log(.6), std::log(.4)}
                                      : std::vector{std::log(.4), std::log(.6)};
        },
        Params(1, 1, stopping), 50, {1});
    const BeamSearch& done = search.Run();
    ASSERT_THAT(done.hypotheses(), SizeIs(1));
    EXPECT_THAT(done.hypotheses()[0].tokens, ElementsAre(0, 0, 1));
    EXPECT_NEAR(done.hypotheses()[0].score, std::log(.6), 1e-6);
  }
}

// Stopping rules, on a model that ends after any token with p = .6 and else goes on with .3 or .1:
// step 1 gives one hypothesis (end), step 2 another (a end), and then both places are taken.
TEST(BeamSearchTest, EarlyStoppingSaysWhenTheWorstCannotBeBeaten) {
  const auto model = Always({.3, .1, .6});
  const auto steps = [&](float penalty, EarlyStopping stopping) {
    Search search(model, Params(2, penalty, stopping), 40, {2});
    search.Run();
    return search.steps();
  };
  EXPECT_EQ(steps(1, EarlyStopping::kTrue), 2);
  // log(.09) / 2 = −1.20 does not beat log(.18) / 2 = −0.86.
  EXPECT_EQ(steps(1, EarlyStopping::kFalse), 2);
  // At 40 tokens log(.09) / 40 = −0.06 would.
  EXPECT_GT(steps(1, EarlyStopping::kNever), 2);
  // Short ones are favoured: as kFalse.
  EXPECT_EQ(steps(-1, EarlyStopping::kNever), steps(-1, EarlyStopping::kFalse));
  EXPECT_EQ(steps(0, EarlyStopping::kNever), steps(0, EarlyStopping::kFalse));
}

TEST(BeamSearchTest, SuppressedTokensArePassedOver) {
  // 3 is the likeliest by far.
  Search search(Always({.1, .05, .05, .8}), Params(2), 4, {2}, {3});
  for (const auto& hypothesis : search.Run().hypotheses()) {
    EXPECT_EQ(std::count(hypothesis.tokens.begin(), hypothesis.tokens.end(), 3), 0);
  }
  EXPECT_THAT(search.search().hypotheses()[0].tokens, ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(search.search().alternatives(), 4);
}

TEST(BeamSearchTest, ASmallVocabularyHasFewerBeams) {
  Search search(Always({.6, .4}), Params(4), 3);
  search.Step();
  EXPECT_THAT(search.search().beams(), SizeIs(2));
  search.Step();
  EXPECT_THAT(search.search().beams(), SizeIs(4));
  EXPECT_THAT(search.Run().hypotheses(), SizeIs(4));
}

TEST(BeamSearchTest, WithoutAFiniteAlternativeItEnds) {
  Search nothing([](std::span<const int32_t>) { return std::vector<double>(3, kMinusInfinity); },
                 Params(2), 9);
  EXPECT_THAT(nothing.Run().hypotheses(), IsEmpty());
  EXPECT_EQ(nothing.steps(), 1);
  // Only the end is possible: one hypothesis, though two were wanted.
  Search end(
      [](std::span<const int32_t>) {
        return std::vector<double>{kMinusInfinity, std::nan(""), -0.5};
      },
      Params(2), 9, {2});
  ASSERT_THAT(end.Run().hypotheses(), SizeIs(1));
  EXPECT_THAT(end.search().hypotheses()[0].tokens, ElementsAre(2));
}

TEST(BeamSearchTest, TiesGoToTheBetterBeamAndTheLowerToken) {
  Search search(Always({.25, .25, .25, .25}), Params(3), 2);
  search.Step();
  EXPECT_THAT(search.generated(), ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2)));
  const BeamSearch& done = search.Run();
  EXPECT_THAT(done.hypotheses()[0].tokens, ElementsAre(0, 0));
  EXPECT_THAT(done.hypotheses()[1].tokens, ElementsAre(0, 1));
  EXPECT_THAT(done.hypotheses()[2].tokens, ElementsAre(0, 2));
}

// Far beyond the size at which the tree of tokens is pruned.
TEST(BeamSearchTest, LongSequencesKeepTheirTokens) {
  constexpr int64_t kTokens = 3000;
  const auto model = RandomModel(5, 8, 0, 0);
  Search search(model, Params(4, 0), kTokens);
  while (!search.search().done()) {
    if (search.steps() == kTokens - 1) break;
    search.Step();
  }
  const auto before = search.generated();
  const BeamSearch& done = search.Run();
  ASSERT_THAT(done.hypotheses(), SizeIs(4));
  for (const auto& hypothesis : done.hypotheses()) {
    ASSERT_EQ(hypothesis.tokens.size(), static_cast<size_t>(kTokens));
    const std::vector<int32_t> prefix(hypothesis.tokens.begin(), hypothesis.tokens.end() - 1);
    EXPECT_EQ(std::count(before.begin(), before.end(), prefix), 1);
  }
}

}  // namespace
}  // namespace t2r

#include "engine/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "engine/sampling/exponential.h"
#include "engine/sampling/token_history.h"

namespace t2r {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomLogits(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 2.0F);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

int32_t Sample(std::vector<float> logits, const SamplingParams& params, uint64_t position = 0,
               const TokenHistory* history = nullptr) {
  const TokenHistory fresh(params);
  return SampleToken(logits, params, (history == nullptr ? &fresh : history)->adjustments(),
                     position);
}

// The tokens that ever come, over many positions.
std::set<int32_t> Support(const std::vector<float>& logits, const SamplingParams& params,
                          int draws = 4000) {
  std::set<int32_t> seen;
  for (int i = 0; i < draws; ++i) seen.insert(Sample(logits, params, i));
  return seen;
}

// Probabilities by the definition: scale, softmax, top-k (ties kept), top-p on what is left
// renormalised, min-p, renormalise; all in float64 over a full sort.
std::vector<double> Distribution(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size());
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((static_cast<double>(logits[i]) - logits[order[0]]) / params.temperature);
  }
  if (params.top_k > 0 && params.top_k < static_cast<int>(p.size())) {
    const float least = logits[order[params.top_k - 1]];
    for (size_t i = 0; i < p.size(); ++i) {
      if (logits[i] < least) p[i] = 0;
    }
  }
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  double mass = 0;
  for (const int token : order) {
    if (params.top_p < 1 && mass >= params.top_p * total) p[token] = 0;
    mass += p[token];
  }
  for (double& value : p) {
    if (value < params.min_p) value = 0;
  }
  const double kept = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= kept;
  return p;
}

TEST(CounterUniformTest, IsPhilox) {
  // Known answers of Philox4x32-10 (Random123's kat_vectors): counter and key 0 give
  // 6627e8d5 e169c58d bc57ac4c 9b00dbd8; all ones give 408f276d 41c83b0e a20bc7c6 6d5451fd.
  EXPECT_EQ(CounterUniform(0, 0, 0), static_cast<double>(0xe169c58d6627e8d5ULL >> 11) * 0x1p-53);
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(CounterUniform(ones, ones, ones),
            static_cast<double>(0x41c83b0e408f276dULL >> 11) * 0x1p-53);
}

TEST(CounterUniformTest, IsUniform) {
  constexpr int kDraws = 100000;
  double sum = 0;
  std::vector<int> bins(10, 0);
  for (int i = 0; i < kDraws; ++i) {
    const double u = CounterUniform(7, 3, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    ++bins[static_cast<int>(u * 10)];
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  for (const int bin : bins) EXPECT_NEAR(bin, 10000, 5 * std::sqrt(10000 * 0.9));
}

TEST(ExponentialTest, StaysWithinItsBound) {
  for (double x = -86.9; x <= 0; x += 0.00137) {
    const auto argument = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(argument));
    ASSERT_NEAR(ExpNonPositive(argument) / exact, 1.0, 2e-7) << argument;
  }
  EXPECT_EQ(ExpNonPositive(0.0F), 1.0F);
  EXPECT_EQ(ExpNonPositive(-88.0F), 0.0F);
  EXPECT_EQ(ExpNonPositive(-kInfinity), 0.0F);
}

TEST(SampleTokenTest, GreedyTakesTheLowestOfEquals) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(Sample({1, 3, 2, 3}, params), 1);
  EXPECT_EQ(Sample({kNan, -1, -2}, params), 1);
  EXPECT_EQ(Sample({kNan, kNan}, params), 0);
  EXPECT_EQ(Sample({-kInfinity, -kInfinity}, params), 0);
  std::vector<float> wide(1003, -5.0F);
  wide[1002] = 7;
  wide[40] = 7;
  EXPECT_EQ(Sample(wide, params), 40);
  for (size_t size = 1; size <= 100; ++size) {
    for (size_t largest = 0; largest < size; ++largest) {
      std::vector<float> logits(size, -5.0F);
      logits[largest] = -4;
      EXPECT_EQ(Sample(logits, params), static_cast<int32_t>(largest)) << size;
    }
  }
}

TEST(SampleTokenTest, NanAndInfinityNeverComeOut) {
  SamplingParams params;
  EXPECT_THAT(Support({kNan, 1, -kInfinity, 1}, params), ::testing::ElementsAre(1, 3));
  params.top_k = 3;
  params.top_p = 0.9F;
  params.min_p = 0.1F;
  EXPECT_THAT(Support({kNan, 1, -kInfinity, 1}, params), ::testing::ElementsAre(1, 3));
  EXPECT_EQ(Sample({0, kInfinity, kNan}, params), 1);
  EXPECT_EQ(Sample({kNan, kNan}, params), 0);
}

TEST(SampleTokenTest, TheDrawInvertsTheDistributionOfALargeVocabulary) {
  // 5,000 weights of exactly 1 between impossible tokens: the token is u · 5,000 rounded down.
  constexpr int kBefore = 1500;
  constexpr int kWeights = 5000;
  std::vector<float> logits(kBefore + kWeights + 3000, -kInfinity);
  std::fill_n(logits.begin() + kBefore, kWeights, 2.5F);
  SamplingParams params;
  params.seed = 11;
  params.temperature = 0.5F;
  for (uint64_t position = 0; position < 300; ++position) {
    const double uniform = CounterUniform(params.seed, params.sequence, position);
    EXPECT_EQ(Sample(logits, params, position), kBefore + static_cast<int>(uniform * kWeights));
  }
}

TEST(SampleTokenTest, ATinyTemperatureIsGreedy) {
  SamplingParams params;
  params.temperature = 1e-40F;  // its inverse overflows
  EXPECT_THAT(Support({1, 2, 1.999F}, params, 100), ::testing::ElementsAre(1));
}

TEST(SampleTokenTest, TopKKeepsTies) {
  SamplingParams params;
  params.top_k = 2;
  EXPECT_THAT(Support({1, 0.5F, 0, 0.5F, 0.4F}, params), ::testing::ElementsAre(0, 1, 3));
  params.top_k = 1;
  EXPECT_THAT(Support({1, 0.5F, 0, 0.5F, 0.4F}, params), ::testing::ElementsAre(0));
  params.top_k = 50;
  EXPECT_EQ(Support({1, 0.5F, 0}, params).size(), 3U);
}

TEST(SampleTokenTest, TopPKeepsTheFewestThatReachTheMass) {
  // Probabilities 0.4, 0.3, 0.2, 0.1.
  const std::vector<float> logits = {std::log(0.4F), std::log(0.3F), std::log(0.2F),
                                     std::log(0.1F)};
  SamplingParams params;
  params.top_p = 0.65F;
  EXPECT_THAT(Support(logits, params), ::testing::ElementsAre(0, 1));
  params.top_p = 0.75F;
  EXPECT_THAT(Support(logits, params), ::testing::ElementsAre(0, 1, 2));
  params.top_p = 1e-6F;
  EXPECT_THAT(Support(logits, params), ::testing::ElementsAre(0));
  // Equals: the lower id stays.
  params.top_p = 0.45F;
  EXPECT_THAT(Support({0, 0, 0, 0}, params), ::testing::ElementsAre(0, 1));
}

TEST(SampleTokenTest, MinPIsRelativeToTheLargest) {
  const std::vector<float> logits = {std::log(0.5F), std::log(0.3F), std::log(0.14F),
                                     std::log(0.06F)};
  SamplingParams params;
  params.min_p = 0.25F;
  EXPECT_THAT(Support(logits, params), ::testing::ElementsAre(0, 1, 2));
  params.min_p = 1.0F;
  EXPECT_THAT(Support(logits, params), ::testing::ElementsAre(0));
}

TEST(SampleTokenTest, DrawsFromTheDefinedDistribution) {
  const std::vector<float> logits = RandomLogits(300, 5);
  struct Setting {
    float temperature;
    int top_k;
    float top_p;
    float min_p;
  };
  for (const Setting& setting :
       {Setting{1, 0, 1, 0}, Setting{0.7F, 0, 1, 0}, Setting{1, 20, 1, 0},
        Setting{1.3F, 0, 0.8F, 0}, Setting{1, 0, 1, 0.05F}, Setting{0.9F, 50, 0.9F, 0.02F}}) {
    SamplingParams params;
    params.temperature = setting.temperature;
    params.top_k = setting.top_k;
    params.top_p = setting.top_p;
    params.min_p = setting.min_p;
    const std::vector<double> expected = Distribution(logits, params);
    constexpr int kDraws = 20000;
    std::vector<int> drawn(logits.size(), 0);
    for (int i = 0; i < kDraws; ++i) ++drawn[Sample(logits, params, i)];
    for (size_t t = 0; t < logits.size(); ++t) {
      const double mean = kDraws * expected[t];
      if (expected[t] == 0) {
        EXPECT_EQ(drawn[t], 0) << t;
      } else {  // five standard deviations, plus one for rare tokens
        EXPECT_NEAR(drawn[t], mean, 5 * std::sqrt(mean) + 1) << t;
      }
    }
  }
}

TEST(SampleTokenTest, IsAPureFunctionOfSeedSequenceAndPosition) {
  const std::vector<float> logits = RandomLogits(1000, 9);
  SamplingParams params;
  params.seed = 11;
  const auto draws = [&] {
    std::vector<int32_t> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(Sample(logits, params, i));
    return tokens;
  };
  const auto first = draws();
  EXPECT_EQ(draws(), first);
  params.sequence = 1;
  EXPECT_NE(draws(), first);
  params.sequence = 0;
  params.seed = 12;
  EXPECT_NE(draws(), first);
}

TEST(SampleTokenTest, PenaltiesAndBias) {
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias = {{2, 1.5F}, {-1, 9.0F}, {99, 9.0F}};
  EXPECT_EQ(Sample({1, 2, 1}, params), 2);
  params.logit_bias.clear();
  params.repetition_penalty = 2;
  TokenHistory seen(params);
  seen.See(std::vector<int32_t>{77, 1, 0, 1});
  EXPECT_EQ(Sample({4, 3, 2.5F}, params, 0, &seen), 2);     // 2, 1.5, 2.5
  EXPECT_EQ(Sample({-1, -3, -1.5F}, params, 0, &seen), 2);  // −2, −6, −1.5
  params.repetition_penalty = 1;
  params.frequency_penalty = 0.5F;
  TokenHistory generated(params);
  for (const int32_t token : {0, 1, 0, 0}) generated.Generate(token);
  EXPECT_EQ(Sample({4, 3.1F, 2}, params, 0, &generated), 1);  // 2.5, 2.6, 2
  params.frequency_penalty = 0;
  params.presence_penalty = 1;
  EXPECT_EQ(Sample({4, 3.1F, 2}, params, 0, &generated), 0);  // 3, 2.1, 2
}

TEST(TokenHistoryTest, KeepsOnlyWhatTheParametersUse) {
  SamplingParams params;
  TokenHistory nothing(params);
  nothing.See(std::vector<int32_t>{1, 2});
  nothing.Generate(3);
  EXPECT_TRUE(nothing.adjustments().empty());
  params.logit_bias = {{7, 1.0F}, {2, -1.0F}};
  params.repetition_penalty = 1.5F;
  params.presence_penalty = 0.5F;
  TokenHistory history(params);
  history.See(std::vector<int32_t>{7, 1});
  history.Generate(1);
  history.Generate(1);
  const auto adjustments = history.adjustments();
  ASSERT_EQ(adjustments.size(), 3U);
  EXPECT_EQ(adjustments[0].token, 1);
  EXPECT_TRUE(adjustments[0].seen);
  EXPECT_EQ(adjustments[0].generated, 2);
  EXPECT_EQ(adjustments[0].bias, 0.0F);
  EXPECT_EQ(adjustments[1].token, 2);
  EXPECT_FALSE(adjustments[1].seen);
  EXPECT_EQ(adjustments[1].bias, -1.0F);
  EXPECT_EQ(adjustments[2].token, 7);
  EXPECT_TRUE(adjustments[2].seen);
  EXPECT_EQ(adjustments[2].generated, 0);
}

// Quadratic insertion would take a quarter of an hour here, beyond the test's time limit.
TEST(TokenHistoryTest, ALongPromptIsSeenInOrderOfItsLength) {
  constexpr int32_t kTokens = 1 << 20;
  constexpr int32_t kChunk = 1 << 16;
  SamplingParams params;
  params.repetition_penalty = 1.2F;
  params.presence_penalty = 0.5F;
  params.logit_bias = {{kTokens / 2, 3.0F}};
  TokenHistory history(params);
  history.Generate(kTokens / 4);
  std::vector<int32_t> tokens(kTokens);
  std::iota(tokens.rbegin(), tokens.rend(), 0);  // descending: each belongs before all others
  for (int32_t first = 0; first < kTokens; first += kChunk) {
    history.See(std::span(tokens).subspan(first, kChunk));
    history.See(std::span(tokens).subspan(first, 5));  // once more
  }
  ASSERT_EQ(history.adjustments().size(), static_cast<size_t>(kTokens));
  for (int32_t token = 0; token < kTokens; ++token) {
    const TokenAdjustment& adjustment = history.adjustments()[token];
    ASSERT_EQ(adjustment.token, token);
    ASSERT_TRUE(adjustment.seen);
    ASSERT_EQ(adjustment.bias, token == kTokens / 2 ? 3.0F : 0.0F);
    ASSERT_EQ(adjustment.generated, token == kTokens / 4 ? 1 : 0);
  }
}

TEST(SampleRowTest, ATargetOutsideTheVocabularyIsImpossible) {
  const std::vector<float> logits = {1, 2, 3};
  for (const int32_t target : {3, 1 << 30}) {
    SampleRequest request;
    request.target = target;
    EXPECT_EQ(SampleRow(logits, request).target_logprob, -std::numeric_limits<float>::infinity());
    EXPECT_EQ(LogProbability(logits, target), -std::numeric_limits<float>::infinity());
  }
}

TEST(SampleRowTest, GivesAllThatIsAskedFromTheRawRow) {
  const std::vector<float> logits = RandomLogits(301, 5);
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias = {{9, 100.0F}};
  const TokenHistory history(params);
  SampleRequest request;
  request.sampling = &params;
  request.adjustments = history.adjustments();
  request.top = 3;
  request.target = 17;
  const SampleResult result = SampleRow(logits, request);
  EXPECT_EQ(result.token, 9);
  EXPECT_EQ(result.logprob, LogProbability(logits, 9));
  EXPECT_EQ(result.target_logprob, LogProbability(logits, 17));
  EXPECT_EQ(result.top, TopLogProbabilities(logits, 3));
}

TEST(SampleRowTest, TheLogProbabilityIsTheRawRowsWhateverTheDrawCuts) {
  const std::vector<float> logits = RandomLogits(3000, 6);
  for (const float temperature : {1.0F, 0.7F}) {
    for (const int32_t top_k : {0, 40}) {
      for (const float top_p : {1.0F, 0.8F}) {
        SamplingParams params;
        params.temperature = temperature;
        params.top_k = top_k;
        params.top_p = top_p;
        SampleRequest request;
        request.sampling = &params;
        request.position = 5;
        const SampleResult result = SampleRow(logits, request);
        EXPECT_EQ(result.token, Sample(logits, params, 5));
        EXPECT_EQ(result.logprob, LogProbability(logits, result.token));
      }
    }
  }
}

TEST(LogProbabilityTest, IsTheLogSoftmax) {
  const std::vector<float> logits = RandomLogits(5003, 2);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  for (const int32_t token : {0, 17, 5002}) {
    EXPECT_NEAR(LogProbability(logits, token), logits[token] - std::log(sum), 1e-6);
  }
  // Far from 0 nothing overflows.
  EXPECT_NEAR(LogProbability(std::vector<float>{1e4F, 1e4F}, 0), std::log(0.5), 1e-3);
}

TEST(TopLogProbabilitiesTest, BestFirstTiesByLowerId) {
  const std::vector<float> logits = {1, 3, kNan, 3, 2, -kInfinity};
  const auto top = TopLogProbabilities(logits, 3);
  ASSERT_EQ(top.size(), 3U);
  EXPECT_EQ(top[0].first, 1);
  EXPECT_EQ(top[1].first, 3);
  EXPECT_EQ(top[2].first, 4);
  const double norm = std::log(std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0));
  EXPECT_NEAR(top[0].second, 3 - norm, 1e-6);
  EXPECT_NEAR(top[2].second, 2 - norm, 1e-6);
  EXPECT_EQ(TopLogProbabilities(logits, 50).size(), logits.size());
  EXPECT_TRUE(TopLogProbabilities(logits, 0).empty());
}

}  // namespace
}  // namespace t2r

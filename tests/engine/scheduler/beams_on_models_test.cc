// Beams over real executors: forked states, shared pages and sources must be those that each
// hypothesis would have had alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "testing/marian_directory.h"
#include "tests/engine/model/engine_fixture.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r::testing {
namespace {

std::unique_ptr<Engine> EngineOf(const std::string& name) {
  EngineOptions options;
  options.threads = 2;
  options.max_sessions = 16;
  if (name.starts_with("marian")) {
    MarianSpec spec;
    spec.suppressed = {7};
    if (name == "marian_linear") {
      spec.linear.assign(3, true);
      spec.linear_cross.assign(3, true);
    }
    return RandomEngine(spec, options);
  }
  ModelSpec spec;
  if (name == "linear") spec.linear = {true, true, true};
  if (name == "mixed") spec.linear = {true, false, true};
  return RandomEngine(spec, options);
}

class BeamsOnModelsTest : public ::testing::TestWithParam<std::string> {
 protected:
  Request MakeRequest(int prompt_tokens, int64_t max_tokens, int salt) const {
    const ExecutorLimits& limits = engine_->executor->limits();
    Request request;
    request.prompt = SomeIds(prompt_tokens, limits.vocab_size, salt);
    if (limits.max_source > 0) {
      request.source = SomeIds(30 + 9 * salt, limits.source_vocab_size, salt);
    }
    request.max_tokens = max_tokens;
    request.sampling = Greedy();
    return request;
  }
  std::shared_ptr<FakeSink> Submit(Request request) {
    auto sink = std::make_shared<FakeSink>();
    SubmitOrFail(*scheduler_, std::move(request), sink);
    return sink;
  }

  std::unique_ptr<Engine> engine_ = EngineOf(GetParam());
  std::unique_ptr<Scheduler> scheduler_ =
      std::make_unique<Scheduler>(*engine_->executor, nullptr, nullptr, SchedulerOptions());
};

// The score is made of the very bits that scoring the hypothesis by itself gives: log probabilities
// do not depend on batch or split, so one wrong state or page would show.
TEST_P(BeamsOnModelsTest, ScoresAreThoseOfTheHypothesesAlone) {
  std::vector<Request> requests;
  std::vector<std::shared_ptr<FakeSink>> sinks, others;
  for (const auto& [count, prompt, max_tokens] :
       {std::tuple{4, 60, 30}, {5, 1, 24}, {3, 64, 8}, {2, 125, 12}, {6, 130, 3}}) {
    Request request = MakeRequest(prompt, max_tokens, count);
    request.beams.count = count;
    request.beams.num_return = count;
    request.beams.length_penalty = 0.5F * static_cast<float>(count);
    request.stop_token_ids = {3, 4};
    requests.push_back(request);
    sinks.push_back(Submit(request));
    others.push_back(Submit(MakeRequest(20 + count, 30, 10 - count)));
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    const FinishEvent finish = sinks[i]->WaitUntilFinished();
    ASSERT_TRUE(finish.status.ok()) << finish.status;
    ASSERT_EQ(finish.hypotheses.size(), static_cast<size_t>(requests[i].beams.count));
    for (const Hypothesis& hypothesis : finish.hypotheses) {
      Request score = requests[i];
      score.beams = {};
      score.score = true;
      score.prompt.insert(score.prompt.end(), hypothesis.tokens.begin(), hypothesis.tokens.end());
      const std::vector<float> scores = Submit(score)->WaitUntilFinished().scores;
      ASSERT_EQ(scores.size(), score.prompt.size() - 1);
      double sum = 0;
      for (size_t j = requests[i].prompt.size() - 1; j < scores.size(); ++j) {
        sum += double{scores[j]};
      }
      const auto length = static_cast<double>(hypothesis.tokens.size());
      const double divisor = std::pow(length, double{requests[i].beams.length_penalty});
      EXPECT_EQ(hypothesis.score, static_cast<float>(sum / divisor)) << i;
      for (const int32_t suppressed : engine_->executor->limits().suppressed_token_ids) {
        EXPECT_EQ(std::count(hypothesis.tokens.begin(), hypothesis.tokens.end(), suppressed), 0);
      }
    }
  }
  for (const auto& other : others) other->WaitUntilFinished();
}

// One beam is greedy decoding.
TEST_P(BeamsOnModelsTest, OneBeamIsGreedy) {
  Request request = MakeRequest(9, 40, 3);
  const auto greedy = Submit(request);
  request.beams.count = 1;
  const auto beam = Submit(request);
  greedy->WaitUntilFinished();
  const FinishEvent finish = beam->WaitUntilFinished();
  ASSERT_EQ(finish.hypotheses.size(), 1U);
  EXPECT_EQ(finish.hypotheses[0].tokens, greedy->tokens());
}

INSTANTIATE_TEST_SUITE_P(Models, BeamsOnModelsTest,
                         ::testing::Values("linear", "full", "mixed", "marian_linear",
                                           "marian_full"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace t2r::testing

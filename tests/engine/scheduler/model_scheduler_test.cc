// The scheduler over a real model's executor, on the chosen backend: slots, chunks, overlap and the
// device's steps together.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/engine/model/engine_fixture.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r::testing {
namespace {

ModelSpec MixedSpec() {
  ModelSpec spec;
  spec.layers = 2;
  spec.linear = {true, false};
  return spec;
}

EngineOptions FewSlots() {
  EngineOptions options;
  options.threads = 1;
  options.max_sessions = 3;
  options.max_step_tokens = 96;
  return options;
}

struct Running {
  std::shared_ptr<FakeSink> sink;
  RequestId id = 0;
};

class ModelSchedulerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    engine_ = RandomEngine(spec_, FewSlots());
    ASSERT_NE(engine_, nullptr);
  }

  Request MakeRequest(int i) const {
    Request request;
    request.prompt = SomeIds(1 + i * 37 % 90, spec_.vocab, i);
    request.max_tokens = 1 + i % 7;
    request.sampling.temperature = i % 2 == 0 ? 0.0F : 1.0F;
    request.sampling.seed = 100 + i;
    request.ignore_eos = true;
    return request;
  }
  static Running Submit(Scheduler& scheduler, Request request) {
    Running run;
    run.sink = std::make_shared<FakeSink>();
    run.id = SubmitOrFail(scheduler, std::move(request), run.sink);
    return run;
  }

  const ModelSpec spec_ = MixedSpec();
  std::unique_ptr<Engine> engine_;
};

// Many more requests than slots, each with the tokens that it has alone: whoever ran in its slot
// before, and whoever runs beside it.
TEST_F(ModelSchedulerTest, EachRequestHasTheTokensItHasAlone) {
  constexpr int kRequests = 12;
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kRequests; ++i) {
    Scheduler scheduler(*engine_->executor, nullptr, nullptr, SchedulerOptions());
    const Running run = Submit(scheduler, MakeRequest(i));
    EXPECT_EQ(run.sink->WaitUntilFinished().reason, FinishReason::kLength);
    alone.push_back(run.sink->tokens());
  }
  SchedulerOptions options;
  options.max_prompt_chunk = 64;
  Scheduler scheduler(*engine_->executor, nullptr, nullptr, options);
  std::vector<Running> runs;
  for (int i = 0; i < kRequests; ++i) runs.push_back(Submit(scheduler, MakeRequest(i)));
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_EQ(runs[i].sink->WaitUntilFinished().reason, FinishReason::kLength);
    EXPECT_EQ(runs[i].sink->tokens(), alone[i]) << "request " << i;
  }
}

// A cancelled session's slot is another's next, without a trace of what was in it.
TEST_F(ModelSchedulerTest, ACancelledSessionLeavesNothingBehind) {
  Scheduler scheduler(*engine_->executor, nullptr, nullptr, SchedulerOptions());
  const Running first = Submit(scheduler, MakeRequest(3));
  first.sink->WaitUntilFinished();
  std::vector<Running> doomed;
  for (int i = 0; i < 3; ++i) {
    Request request = MakeRequest(20 + i);
    request.max_tokens = 20;
    doomed.push_back(Submit(scheduler, std::move(request)));
  }
  for (const Running& run : doomed) {
    run.sink->WaitForTokens(1);
    scheduler.Cancel(run.id);
  }
  const Running again = Submit(scheduler, MakeRequest(3));
  again.sink->WaitUntilFinished();
  EXPECT_EQ(again.sink->tokens(), first.sink->tokens());
}

TEST_F(ModelSchedulerTest, ScoresAreThoseOfOneStep) {
  const auto ids = SomeIds(80, spec_.vocab, 5);
  const auto scores = [&](int64_t chunk, bool beside_others) {
    SchedulerOptions options;
    options.max_prompt_chunk = chunk;
    Scheduler scheduler(*engine_->executor, nullptr, nullptr, options);
    std::vector<Running> others;
    if (beside_others) {
      for (int i = 0; i < 2; ++i) others.push_back(Submit(scheduler, MakeRequest(40 + i)));
    }
    Request request;
    request.prompt = ids;
    request.score = true;
    const Running run = Submit(scheduler, std::move(request));
    const std::vector<float> found = run.sink->WaitUntilFinished().scores;
    for (const Running& other : others) other.sink->WaitUntilFinished();
    return found;
  };
  const std::vector<float> want = scores(80, false);
  EXPECT_EQ(want.size(), ids.size() - 1);
  EXPECT_EQ(scores(64, true), want);
}

}  // namespace
}  // namespace t2r::testing

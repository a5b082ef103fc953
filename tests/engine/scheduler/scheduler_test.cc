// Requests that run to their end: right tokens, fair batches.
#include "engine/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

TEST(SchedulerTest, OneRequest) {
  FakeExecutor executor;
  FakeObserver observer;
  Scheduler scheduler(executor, nullptr, &observer, SchedulerOptions());
  auto sink = std::make_shared<FakeSink>();
  Request request = MakeRequest(5, 7);
  request.top_logprobs = 3;
  const std::vector<int32_t> expected = ExpectedTokens(request.prompt, 7, 100);
  EXPECT_NE(SubmitOrFail(scheduler, request, sink), 0U);
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_TRUE(sink->started());
  EXPECT_EQ(sink->tokens(), expected);
  EXPECT_EQ(finish.reason, FinishReason::kLength);
  EXPECT_TRUE(finish.status.ok());
  EXPECT_EQ(finish.prompt_tokens, 5);
  EXPECT_EQ(finish.generated_tokens, 7);
  for (const TokenEvent& event : sink->events()) {
    EXPECT_EQ(event.logprob, -1.0F);
    EXPECT_EQ(event.top.size(), 3U);
  }
  EXPECT_EQ(executor.open_slots(), 0);
  const FakeObserver::Counts counts = observer.counts();
  EXPECT_EQ(counts.submitted, 1);
  EXPECT_EQ(counts.finished, 1);
  EXPECT_EQ(counts.first_tokens, 1);
  EXPECT_EQ(counts.later_tokens, 6);
  EXPECT_EQ(counts.prompt_rows, 5);
  EXPECT_EQ(counts.decode_rows, 6);  // the last token is not run
  EXPECT_EQ(counts.queue_requests, 0);
  EXPECT_EQ(counts.queue_tokens, 0);
  EXPECT_EQ(counts.slots_used, 0);
}

TEST(SchedulerTest, TokensDoNotDependOnNeighbours) {
  FakeExecutor executor;
  SchedulerOptions options;
  options.max_prompt_chunk = 3;
  Scheduler scheduler(executor, nullptr, nullptr, options);
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 40; ++i) {  // ten times the slots
    sinks.push_back(std::make_shared<FakeSink>());
    SubmitOrFail(scheduler, MakeRequest(1 + i % 11, 1 + i % 5, i), sinks.back());
  }
  for (int i = 0; i < 40; ++i) {
    sinks[i]->WaitUntilFinished();
    EXPECT_EQ(sinks[i]->tokens(),
              ExpectedTokens(MakeRequest(1 + i % 11, 1, i).prompt, 1 + i % 5, 100));
  }
}

TEST(SchedulerTest, AnEventSaysHowManyGoOutWithIt) {
  FakeExecutor executor;
  executor.Hold();
  Scheduler scheduler(executor, nullptr, nullptr, SchedulerOptions());
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 4; ++i) {
    sinks.push_back(std::make_shared<FakeSink>());
    SubmitOrFail(scheduler, MakeRequest(2, 2, i), sinks.back());
    if (i == 0) executor.WaitUntilHeldAfter(0);  // it has a step before the others
  }
  executor.AllowAll();
  for (int i = 0; i < 4; ++i) {
    sinks[i]->WaitUntilFinished();
    const std::vector<TokenEvent> events = sinks[i]->events();
    ASSERT_EQ(events.size(), 2U);
    // Three begin with the first one's token; it ends with theirs.
    EXPECT_EQ(sinks[i]->started_together(), i == 0 ? 1U : 4U);
    EXPECT_EQ(events[0].together, i == 0 ? 4U : 5U);
    EXPECT_EQ(events[1].together, i == 0 ? 5U : 6U);
  }
}

TEST(SchedulerTest, Score) {
  FakeExecutor executor;
  FakeObserver observer;
  SchedulerOptions options;
  options.max_prompt_chunk = 4;
  Scheduler scheduler(executor, nullptr, &observer, options);
  Request request = MakeRequest(10, 0);
  request.score = true;
  std::vector<float> expected;
  for (size_t i = 0; i + 1 < request.prompt.size(); ++i) {
    expected.push_back(MixScore(std::span(request.prompt).first(i + 1), request.prompt[i + 1]));
  }
  auto sink = std::make_shared<FakeSink>(0);  // scores need no room
  SubmitOrFail(scheduler, request, sink);
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kScored);
  EXPECT_EQ(finish.scores, expected);
  EXPECT_EQ(finish.generated_tokens, 0);
  EXPECT_EQ(observer.counts().prompt_rows, 9);  // the last id is not run
}

TEST(SchedulerTest, ScoreOfOneIdIsEmptyAndNeedsNoStep) {
  FakeExecutor executor;
  FakeObserver observer;
  Scheduler scheduler(executor, nullptr, &observer, SchedulerOptions());
  Request request = MakeRequest(1, 0);
  request.score = true;
  auto sink = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, request, sink);
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kScored);
  EXPECT_TRUE(finish.scores.empty());
  EXPECT_EQ(executor.steps(), 0);
  EXPECT_EQ(observer.counts().queue_requests, 0);
}

TEST(SchedulerTest, StopStringWithTokenizer) {
  FakeExecutor executor;
  std::vector<std::string> pieces(100);
  for (size_t i = 1; i < pieces.size(); ++i) pieces[i] = absl::StrCat("<", i, ">");
  const FakeTokenizer tokenizer(pieces);
  Scheduler scheduler(executor, &tokenizer, nullptr, SchedulerOptions());
  Request request = MakeRequest(3, 50);
  const std::vector<int32_t> tokens = ExpectedTokens(request.prompt, 4, 100);
  request.stop = {pieces[tokens[2]] + "<"};  // completed by the fourth token's first byte
  auto sink = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, request, sink);
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kStop);
  EXPECT_EQ(finish.matched_stop, request.stop[0]);
  EXPECT_EQ(sink->text(), pieces[tokens[0]] + pieces[tokens[1]]);
  EXPECT_EQ(sink->tokens(), tokens);
}

TEST(SchedulerTest, ALongPromptDelaysOthersByAtMostOneChunkAStep) {
  FakeExecutor executor;
  executor.Hold();
  SchedulerOptions options;
  options.max_prompt_chunk = 5;
  Scheduler scheduler(executor, nullptr, nullptr, options);
  auto decoding = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, MakeRequest(2, 40), decoding);
  executor.Allow(3);
  executor.WaitUntilHeldAfter(3);
  auto long_prompt = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, MakeRequest(100, 2, 1), long_prompt);
  auto behind = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, MakeRequest(3, 2, 2), behind);
  executor.AllowAll();
  long_prompt->WaitUntilFinished();
  behind->WaitUntilFinished();
  decoding->WaitUntilFinished();

  int chunks = 0;
  const std::vector<FakeExecutor::StepRecord> records = executor.records();
  for (size_t step = 0; step < 39; ++step) {  // while the first request runs
    int64_t prompt_rows = 0;
    bool decodes = false;
    for (const FakeExecutor::ChunkRecord& chunk : records[step]) {
      if (chunk.slot == 0) {
        decodes = true;
      } else if (chunk.rows > 1) {
        prompt_rows += chunk.rows;
      }
    }
    EXPECT_TRUE(decodes) << "step " << step;
    EXPECT_LE(prompt_rows, 5) << "step " << step;
    if (prompt_rows > 0) ++chunks;
  }
  EXPECT_GE(chunks, 20);
}

TEST(SchedulerTest, ALaggingClientSitsOutAndLosesNothing) {
  FakeExecutor executor;
  Scheduler scheduler(executor, nullptr, nullptr, SchedulerOptions());
  auto slow = std::make_shared<FakeSink>(2);
  auto fast = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, MakeRequest(3, 10), slow);
  SubmitOrFail(scheduler, MakeRequest(3, 30, 1), fast);
  EXPECT_EQ(fast->WaitUntilFinished().generated_tokens, 30);
  slow->WaitForTokens(2);
  EXPECT_FALSE(slow->finished());
  EXPECT_EQ(slow->tokens().size(), 2U);
  for (int room = 3; room <= 10; ++room) {
    slow->AddRoom(1);
    scheduler.Wake();
    slow->WaitForTokens(room);
  }
  slow->WaitUntilFinished();
  EXPECT_EQ(slow->tokens(), ExpectedTokens(MakeRequest(3, 1).prompt, 10, 100));
}

TEST(SchedulerTest, MoreSessionsThanRowsAllGetOn) {
  ExecutorLimits limits = FakeExecutor::DefaultLimits();
  limits.slots = 12;
  limits.max_step_tokens = 4;
  FakeExecutor executor(limits);
  Scheduler scheduler(executor, nullptr, nullptr, SchedulerOptions());
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 30; ++i) {
    sinks.push_back(std::make_shared<FakeSink>());
    SubmitOrFail(scheduler, MakeRequest(5, 9, i), sinks.back());
  }
  for (int i = 0; i < 30; ++i) {
    sinks[i]->WaitUntilFinished();
    EXPECT_EQ(sinks[i]->tokens(), ExpectedTokens(MakeRequest(5, 1, i).prompt, 9, 100));
  }
}

}  // namespace
}  // namespace t2r

// Requests that end before their time: cancelled, late, stalled, drained, device failed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/ops/tensor.h"
#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;

class EndingTest : public ::testing::Test {
 protected:
  void Start(int64_t max_prompt_chunk = 4) {
    SchedulerOptions options;
    options.max_prompt_chunk = max_prompt_chunk;
    options.stall_timeout = absl::Seconds(30);
    options.min_read_rate = min_read_rate_;
    options.on_fault = [this](const absl::Status& fault) { faults_.push_back(fault); };
    options.clock = clock_.AsFunction();
    options.on_failure = [this](const absl::Status& health) {
      EXPECT_EQ(observer_.counts().finished, finished_before_failure_);
      failures_.push_back(health);
    };
    scheduler_ = std::make_unique<Scheduler>(executor_, nullptr, &observer_, options);
  }
  std::shared_ptr<FakeSink> Submit(Request request, RequestId* id = nullptr,
                                   int64_t room = int64_t{1} << 40) {
    auto sink = std::make_shared<FakeSink>(room);
    const RequestId got = SubmitOrFail(*scheduler_, std::move(request), sink);
    if (id != nullptr) *id = got;
    return sink;
  }
  // Lets one step end and the next begin: the loop has taken every earlier command.
  void OneStep() {
    const int64_t next = executor_.steps() + 1;
    executor_.Allow(1);
    executor_.WaitUntilHeldAfter(next);
  }
  void ExpectAllFree() {
    EXPECT_EQ(executor_.open_slots(), 0);
    const FakeObserver::Counts counts = observer_.counts();
    EXPECT_EQ(counts.submitted, counts.finished);
    EXPECT_EQ(counts.queue_requests, 0);
    EXPECT_EQ(counts.queue_tokens, 0);
    EXPECT_EQ(counts.slots_used, 0);
  }

  // What on_failure was told, by the engine thread before any request ends.
  std::vector<absl::Status> failures_;
  std::vector<absl::Status> faults_;  // the same of on_fault
  int64_t min_read_rate_ = 0;
  int64_t finished_before_failure_ = 0;
  FakeClock clock_;
  FakeObserver observer_;
  FakeExecutor executor_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(EndingTest, CancelWhileDecoding) {
  executor_.Hold();
  Start();
  RequestId id = 0;
  auto other = Submit(MakeRequest(2, 50));
  auto sink = Submit(MakeRequest(2, 50, 1), &id);
  for (int i = 0; i < 4; ++i) OneStep();
  EXPECT_EQ(executor_.open_slots(), 2);
  scheduler_->Cancel(id);
  OneStep();  // the step under way ends; the next one begins without the session
  EXPECT_TRUE(sink->finished());
  EXPECT_EQ(executor_.open_slots(), 1);
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kCancelled);
  executor_.AllowAll();
  EXPECT_EQ(other->WaitUntilFinished().generated_tokens, 50);
  ExpectAllFree();
}

TEST_F(EndingTest, CancelInsideALongPrompt) {
  executor_.Hold();
  Start();
  RequestId id = 0;
  auto other = Submit(MakeRequest(2, 50));
  auto sink = Submit(MakeRequest(1000, 5, 1), &id);
  for (int i = 0; i < 4; ++i) OneStep();
  EXPECT_EQ(executor_.open_slots(), 2);
  scheduler_->Cancel(id);
  OneStep();
  EXPECT_TRUE(sink->finished());
  EXPECT_EQ(executor_.open_slots(), 1);
  EXPECT_EQ(sink->WaitUntilFinished().generated_tokens, 0);
  executor_.AllowAll();
  other->WaitUntilFinished();
  ExpectAllFree();
}

TEST_F(EndingTest, CancelWhileQueued) {
  executor_.Hold();
  Start();
  std::vector<std::shared_ptr<FakeSink>> running;
  for (int i = 0; i < 4; ++i) running.push_back(Submit(MakeRequest(2, 50, i)));
  RequestId id = 0;
  auto sink = Submit(MakeRequest(20, 5), &id);
  auto behind = Submit(MakeRequest(3, 5));
  for (int i = 0; i < 3; ++i) OneStep();
  EXPECT_EQ(observer_.counts().queue_requests, 2);
  scheduler_->Cancel(id);
  OneStep();
  EXPECT_TRUE(sink->finished());
  EXPECT_FALSE(sink->started());
  EXPECT_EQ(observer_.counts().queue_requests, 1);
  EXPECT_EQ(observer_.counts().queue_tokens, 3);
  executor_.AllowAll();
  EXPECT_EQ(behind->WaitUntilFinished().reason, FinishReason::kLength);
  for (const auto& each : running) each->WaitUntilFinished();
  ExpectAllFree();
}

TEST_F(EndingTest, CancelWhileNothingCanRun) {
  Start();
  RequestId id = 0;
  auto sink = Submit(MakeRequest(2, 50), &id, 1);
  sink->WaitForTokens(1);  // now the engine sleeps: no room
  scheduler_->Cancel(id);
  EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kCancelled);
  ExpectAllFree();
  scheduler_->Cancel(id);    // unknown by now
  scheduler_->Cancel(4711);  // never known
  EXPECT_EQ(Submit(MakeRequest(2, 2))->WaitUntilFinished().reason, FinishReason::kLength);
}

TEST_F(EndingTest, DeadlineWhileRunningAndWhileQueued) {
  executor_.Hold();
  Start();
  const absl::Time deadline = clock_.Now() + absl::Seconds(10);
  std::vector<std::shared_ptr<FakeSink>> running;
  for (int i = 0; i < 4; ++i) {
    Request request = MakeRequest(2, 50, i);
    if (i == 1) request.deadline = deadline;
    running.push_back(Submit(request));
  }
  Request queued = MakeRequest(2, 50);
  queued.deadline = deadline;
  auto late = Submit(queued);
  for (int i = 0; i < 3; ++i) OneStep();
  clock_.Advance(absl::Seconds(9));
  OneStep();
  EXPECT_FALSE(late->finished());
  EXPECT_FALSE(running[1]->finished());
  clock_.Advance(absl::Seconds(1));
  OneStep();
  EXPECT_TRUE(late->finished());
  EXPECT_TRUE(running[1]->finished());
  EXPECT_EQ(late->WaitUntilFinished().reason, FinishReason::kDeadline);
  EXPECT_EQ(late->WaitUntilFinished().queue_time, absl::Seconds(10));
  EXPECT_EQ(running[1]->WaitUntilFinished().status.code(), absl::StatusCode::kDeadlineExceeded);
  executor_.AllowAll();
  EXPECT_EQ(running[0]->WaitUntilFinished().reason, FinishReason::kLength);
  for (const auto& sink : running) sink->WaitUntilFinished();
  ExpectAllFree();
}

TEST_F(EndingTest, ADeadlineWakesTheSleepingEngine) {
  // The real clock: nothing else would wake the engine.
  SchedulerOptions options;
  scheduler_ = std::make_unique<Scheduler>(executor_, nullptr, &observer_, options);
  Request request = MakeRequest(2, 50);
  request.deadline = absl::Now() + absl::Milliseconds(20);
  auto sink = Submit(request, nullptr, 1);
  EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kDeadline);
  EXPECT_GE(absl::Now(), request.deadline);
  ExpectAllFree();
}

TEST_F(EndingTest, AClientThatTakesNothingStalls) {
  Start();
  auto stalled = Submit(MakeRequest(2, 50), nullptr, 3);
  auto moving = Submit(MakeRequest(2, 50, 1), nullptr, 3);
  stalled->WaitForTokens(3);
  moving->WaitForTokens(3);
  // A third request runs to its end, so the engine has seen both without room.
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  clock_.Advance(absl::Seconds(29));
  moving->AddRoom(1);
  scheduler_->Wake();
  moving->WaitForTokens(4);
  EXPECT_FALSE(stalled->finished());
  clock_.Advance(absl::Seconds(1));
  scheduler_->Wake();
  const FinishEvent finish = stalled->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kStalled);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(finish.status.message()), HasSubstr("30s"));
  EXPECT_EQ(finish.generated_tokens, 3);
  EXPECT_FALSE(moving->finished());
  moving->AddRoom(1000);
  scheduler_->Wake();
  EXPECT_EQ(moving->WaitUntilFinished().reason, FinishReason::kLength);
  ExpectAllFree();
}

// One token of 100 bytes now and then keeps nobody's slot when the least rate is 1,000 bytes a
// second: 29 seconds without room and 0.1 earned.
TEST_F(EndingTest, AClientThatDripsStalls) {
  min_read_rate_ = 1000;
  Start();
  auto dripping = Submit(MakeRequest(2, 50), nullptr, 3);
  dripping->WaitForTokens(3);
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  clock_.Advance(absl::Seconds(29));
  dripping->TakeBytes(100);
  dripping->AddRoom(1);
  scheduler_->Wake();
  dripping->WaitForTokens(4);
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  EXPECT_FALSE(dripping->finished());
  clock_.Advance(absl::Milliseconds(1200));
  scheduler_->Wake();
  const FinishEvent finish = dripping->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kStalled);
  EXPECT_THAT(std::string(finish.status.message()), HasSubstr("1000 bytes a second"));
  ExpectAllFree();
}

TEST_F(EndingTest, RoomFoundAtTheStallLimitSaves) {
  Start();
  auto sink = Submit(MakeRequest(2, 5), nullptr, 1);
  sink->WaitForTokens(1);
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  Submit(MakeRequest(1, 1))->WaitUntilFinished();
  clock_.Advance(absl::Hours(1));
  sink->AddRoom(10);
  scheduler_->Wake();
  EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kLength);
}

TEST_F(EndingTest, DrainLetsRunningAndQueuedFinish) {
  executor_.Hold();
  Start();
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(Submit(MakeRequest(2, 5, i)));
  executor_.WaitUntilHeldAfter(0);
  auto reservation = scheduler_->Reserve(1);
  ASSERT_TRUE(reservation.ok());
  std::thread drain([this] { scheduler_->Drain(absl::InfiniteFuture()); });
  while (scheduler_->Reserve(1).ok()) std::this_thread::yield();
  const absl::Status refused = scheduler_->Reserve(1).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("draining"));
  auto late = std::make_shared<FakeSink>();
  EXPECT_EQ(scheduler_->Submit(*std::move(reservation), MakeRequest(1, 1), late).status().code(),
            absl::StatusCode::kUnavailable);
  executor_.AllowAll();
  drain.join();
  for (const auto& sink : sinks) {
    ASSERT_TRUE(sink->finished());
    EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kLength);
    EXPECT_EQ(sink.use_count(), 1) << "the sink is let go before Drain returns";
  }
  EXPECT_TRUE(scheduler_->health().ok());
  ExpectAllFree();
}

TEST_F(EndingTest, DrainEndsTheRestAtItsDeadline) {
  executor_.Hold();
  Start();
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(Submit(MakeRequest(2, 1000, i)));
  for (int i = 0; i < 5; ++i) OneStep();
  const absl::Time deadline = clock_.Now() + absl::Seconds(5);
  std::thread drain([this, deadline] { scheduler_->Drain(deadline); });
  while (scheduler_->Reserve(1).ok()) std::this_thread::yield();
  OneStep();
  for (const auto& sink : sinks) EXPECT_FALSE(sink->finished());
  clock_.Advance(absl::Seconds(5));
  executor_.Allow(1);
  drain.join();
  for (const auto& sink : sinks) {
    const FinishEvent finish = sink->WaitUntilFinished();
    EXPECT_EQ(finish.reason, FinishReason::kDrained);
    EXPECT_EQ(finish.status.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_GT(sinks[0]->tokens().size(), 0U);
  EXPECT_FALSE(sinks[5]->started());
  ExpectAllFree();
}

TEST_F(EndingTest, DrainOfAnIdleSchedulerReturnsAtOnce) {
  Start();
  scheduler_->Drain(absl::InfiniteFuture());
  scheduler_->Drain(absl::InfiniteFuture());
}

TEST_F(EndingTest, TheDestructorEndsWhatRuns) {
  Start();
  auto stuck = Submit(MakeRequest(2, 50), nullptr, 1);
  stuck->WaitForTokens(1);
  scheduler_.reset();
  EXPECT_EQ(stuck->WaitUntilFinished().reason, FinishReason::kDrained);
  ExpectAllFree();
}

TEST_F(EndingTest, ALaunchThatFailsEndsEverythingAndLosesNoToken) {
  executor_.Hold();
  Start();
  auto sink = Submit(MakeRequest(2, 50));
  auto other = Submit(MakeRequest(3, 50, 1));
  for (int i = 0; i < 3; ++i) OneStep();
  executor_.FailLaunches();
  executor_.AllowAll();  // the step under way still ends, and its tokens count
  for (const auto& each : {sink, other}) {
    const FinishEvent finish = each->WaitUntilFinished();
    EXPECT_EQ(finish.reason, FinishReason::kError);
    EXPECT_EQ(finish.status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(finish.status.message()), HasSubstr("takes no work"));
    EXPECT_EQ(finish.generated_tokens, static_cast<int64_t>(each->tokens().size()));
  }
  EXPECT_EQ(sink->tokens(), ExpectedTokens(MakeRequest(2, 1).prompt, 4, 100));
  EXPECT_FALSE(scheduler_->health().ok());
  ExpectAllFree();
}

TEST_F(EndingTest, TokensOfAStepAreHandedOutWhileTheNextRuns) {
  executor_.Hold();
  Start();
  auto sink = Submit(MakeRequest(2, 3));
  for (int step = 1; step < 3; ++step) {
    OneStep();  // the engine thread is inside the next step
    EXPECT_EQ(sink->tokens().size(), static_cast<size_t>(step));
  }
  executor_.AllowAll();
  EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kLength);
}

TEST_F(EndingTest, ADeviceFailureEndsEverything) {
  executor_.Hold();
  Start();
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(Submit(MakeRequest(2, 50, i)));
  for (int i = 0; i < 3; ++i) OneStep();
  EXPECT_TRUE(scheduler_->health().ok());
  auto reservation = scheduler_->Reserve(1);
  ASSERT_TRUE(reservation.ok());
  executor_.FailSteps();
  executor_.AllowAll();
  for (const auto& sink : sinks) {
    const FinishEvent finish = sink->WaitUntilFinished();
    EXPECT_EQ(finish.reason, FinishReason::kError);
    EXPECT_EQ(finish.status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(finish.status.message()), HasSubstr("the fake device is broken"));
  }
  const absl::Status health = scheduler_->health();
  EXPECT_THAT(failures_, ::testing::ElementsAre(health));
  EXPECT_EQ(health.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(health.message()), HasSubstr("the fake device is broken"));
  EXPECT_EQ(scheduler_->Reserve(1).status().code(), absl::StatusCode::kUnavailable);
  auto late = std::make_shared<FakeSink>();
  EXPECT_EQ(scheduler_->Submit(*std::move(reservation), MakeRequest(1, 1), late).status().code(),
            absl::StatusCode::kUnavailable);
  scheduler_->Drain(absl::InfiniteFuture());
  ExpectAllFree();
}

// Memory that runs out, or a fault of the program, ends the requests of the step and nobody else.
TEST_F(EndingTest, AFaultThatIsNotTheDevicesEndsItsStepOnly) {
  const struct {
    std::exception_ptr error;
    absl::StatusCode code;
  } cases[] = {
      {std::make_exception_ptr(std::bad_alloc()), absl::StatusCode::kResourceExhausted},
      {std::make_exception_ptr(DeviceError(DeviceErrorKind::kOutOfMemory, "full")),
       absl::StatusCode::kResourceExhausted},
      {std::make_exception_ptr(DeviceError(DeviceErrorKind::kInternal, "odd")),
       absl::StatusCode::kInternal},
      {std::make_exception_ptr(std::logic_error("wrong")), absl::StatusCode::kInternal},
  };
  executor_.Hold();
  Start();
  for (const auto& fault : cases) {
    auto first = Submit(MakeRequest(2, 50));
    executor_.WaitUntilHeldAfter(executor_.steps());
    executor_.FailNextStep(fault.error);
    auto waiting = Submit(MakeRequest(2, 3));
    executor_.AllowAll();
    const FinishEvent finish = first->WaitUntilFinished();
    EXPECT_EQ(finish.reason, FinishReason::kError);
    EXPECT_EQ(finish.status.code(), fault.code) << finish.status;
    EXPECT_EQ(faults_.back(), finish.status);
    EXPECT_EQ(waiting->WaitUntilFinished().reason, FinishReason::kLength);
    executor_.Hold();
  }
  executor_.AllowAll();
  EXPECT_TRUE(failures_.empty());
  EXPECT_TRUE(scheduler_->health().ok());
  ExpectAllFree();
}

TEST_F(EndingTest, AnOpenThatRunsOutOfMemoryEndsItsRequestOnly) {
  executor_.FailNextOpen(std::make_exception_ptr(std::bad_alloc()));
  Start();
  const FinishEvent finish = Submit(MakeRequest(2, 5))->WaitUntilFinished();
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Submit(MakeRequest(2, 5))->WaitUntilFinished().reason, FinishReason::kLength);
  EXPECT_TRUE(failures_.empty());
  ExpectAllFree();
}

TEST_F(EndingTest, LogitsThatAreNotFiniteEndTheirRequestWithThePosition) {
  executor_.set_not_finite([](std::span<const int32_t> history) { return history.size() == 6; });
  Start();
  auto sink = Submit(MakeRequest(3, 50));
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kError);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(finish.status.message()), HasSubstr("position 5"));
  EXPECT_EQ(sink->tokens().size(), 3U) << "those before it";
  Request score = MakeRequest(9, 0);
  score.score = true;
  EXPECT_THAT(std::string(Submit(score)->WaitUntilFinished().status.message()),
              HasSubstr("position 5"));
  EXPECT_EQ(Submit(MakeRequest(2, 3))->WaitUntilFinished().reason, FinishReason::kLength);
  EXPECT_EQ(observer_.counts().not_finite, 2);
  EXPECT_EQ(faults_.size(), 2U);
  ExpectAllFree();
}

TEST_F(EndingTest, AnOpenThatFailsEndsTheQueueToo) {
  executor_.Hold();
  Start();
  std::vector<std::shared_ptr<FakeSink>> sinks = {Submit(MakeRequest(2, 50))};
  executor_.WaitUntilHeldAfter(0);
  executor_.FailOpens();
  // While the engine thread is inside a step, so that both are queued when the first does not open.
  sinks.push_back(Submit(MakeRequest(3, 5, 1)));
  sinks.push_back(Submit(MakeRequest(2, 5, 2)));
  executor_.AllowAll();
  for (const auto& sink : sinks) {
    const FinishEvent finish = sink->WaitUntilFinished();
    EXPECT_EQ(finish.reason, FinishReason::kError);
    EXPECT_EQ(finish.status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(finish.status.message()), HasSubstr("opens nothing"));
  }
  scheduler_->Drain(absl::InfiniteFuture());
  EXPECT_EQ(failures_.size(), 1U);
  ExpectAllFree();
}

// A request that is over keeps its good end, but nothing is served after it.
TEST_F(EndingTest, ACloseThatFailsIsToldThoughNobodyWaitsForIt) {
  executor_.FailCloses();
  Start();
  EXPECT_EQ(Submit(MakeRequest(2, 1))->WaitUntilFinished().reason, FinishReason::kLength);
  scheduler_->Drain(absl::InfiniteFuture());
  ASSERT_EQ(failures_.size(), 1U);
  EXPECT_THAT(std::string(failures_[0].message()), HasSubstr("clears nothing"));
  EXPECT_EQ(scheduler_->health(), failures_[0]);
  EXPECT_EQ(scheduler_->Reserve(1).status(), failures_[0]);
  ExpectAllFree();
}

}  // namespace
}  // namespace t2r

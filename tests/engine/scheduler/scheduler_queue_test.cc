// Places in the queue: bounds, reservations, order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;

TEST(SchedulerQueueTest, TheQueueIsBounded) {
  FakeExecutor executor;  // 4 slots
  executor.Hold();
  FakeObserver observer;
  SchedulerOptions options;
  options.max_queue_requests = 3;
  options.max_queue_tokens = 50;
  Scheduler scheduler(executor, nullptr, &observer, options);
  std::vector<std::shared_ptr<FakeSink>> sinks;
  const auto submit = [&](int64_t tokens) {
    sinks.push_back(std::make_shared<FakeSink>());
    SubmitOrFail(scheduler, MakeRequest(tokens, 200), sinks.back());
  };
  submit(1);
  executor.WaitUntilHeldAfter(0);
  for (int step = 1; step < 4; ++step) {  // each turn of the loop takes one into its slot
    submit(1);
    executor.Allow(1);
    executor.WaitUntilHeldAfter(step);
  }
  ASSERT_EQ(observer.counts().slots_used, 4);
  ASSERT_EQ(observer.counts().queue_requests, 0);
  submit(10);
  submit(20);
  const auto tokens = scheduler.Reserve(41);
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("max_queue_tokens"));
  submit(20);
  const auto requests = scheduler.Reserve(0);
  EXPECT_EQ(requests.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(requests.status().message()), HasSubstr("max_queue_requests"));
  executor.AllowAll();
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kLength);
  }
  EXPECT_TRUE(scheduler.Reserve(1000).ok());
  EXPECT_EQ(observer.counts().queue_requests, 0);
  EXPECT_EQ(observer.counts().queue_tokens, 0);
}

TEST(SchedulerQueueTest, ReservationsReleaseThemselves) {
  FakeExecutor executor;
  FakeObserver observer;
  SchedulerOptions options;
  options.max_queue_requests = 1;
  Scheduler scheduler(executor, nullptr, &observer, options);
  {
    auto first = scheduler.Reserve(5);
    ASSERT_TRUE(first.ok());
    EXPECT_FALSE(scheduler.Reserve(5).ok());
    Scheduler::Reservation moved = *std::move(first);
    EXPECT_TRUE(moved.valid());
    EXPECT_EQ(observer.counts().queue_requests, 1);
  }
  EXPECT_EQ(observer.counts().queue_requests, 0);
  // A refused request gives its place back, and its sink hears nothing.
  auto reservation = scheduler.Reserve(5);
  ASSERT_TRUE(reservation.ok());
  auto sink = std::make_shared<FakeSink>();
  const auto id = scheduler.Submit(*std::move(reservation), MakeRequest(5, 0), sink);
  EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(observer.counts().queue_requests, 0);
  EXPECT_FALSE(sink->finished());
  EXPECT_EQ(sink.use_count(), 1);
  EXPECT_EQ(scheduler.Submit(Scheduler::Reservation(), MakeRequest(5, 1), sink).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(SchedulerQueueTest, SubmitCorrectsTheReservedTokens) {
  FakeExecutor executor;
  executor.Hold();
  FakeObserver observer;
  Scheduler scheduler(executor, nullptr, &observer, SchedulerOptions());
  std::vector<std::shared_ptr<FakeSink>> sinks;
  for (int i = 0; i < 4; ++i) {
    sinks.push_back(std::make_shared<FakeSink>());
    SubmitOrFail(scheduler, MakeRequest(1, 10), sinks.back());
  }
  executor.Allow(1);
  executor.WaitUntilHeldAfter(1);
  executor.Allow(1);
  executor.WaitUntilHeldAfter(2);
  ASSERT_EQ(observer.counts().slots_used, 4);
  auto reservation = scheduler.Reserve(500);
  ASSERT_TRUE(reservation.ok());
  EXPECT_EQ(observer.counts().queue_tokens, 500);
  sinks.push_back(std::make_shared<FakeSink>());
  EXPECT_TRUE(scheduler.Submit(*std::move(reservation), MakeRequest(20, 1), sinks.back()).ok());
  EXPECT_EQ(observer.counts().queue_tokens, 20);
  EXPECT_EQ(observer.counts().queue_requests, 1);
  executor.AllowAll();
  for (const auto& sink : sinks) sink->WaitUntilFinished();
  EXPECT_EQ(observer.counts().queue_tokens, 0);
}

TEST(SchedulerQueueTest, TenantsTakeTurns) {
  ExecutorLimits limits = FakeExecutor::DefaultLimits();
  limits.slots = 1;
  FakeExecutor executor(limits);
  executor.Hold();
  FakeObserver observer;
  Scheduler scheduler(executor, nullptr, &observer, SchedulerOptions());
  std::vector<std::string> order;
  // The engine thread alone calls OnStarted, and the thread that reads `order` waits for the ends.
  class OrderSink : public FakeSink {
   public:
    OrderSink(std::vector<std::string>& all, std::string name)
        : order_(all), name_(std::move(name)) {}
    void OnStarted(size_t together) override {
      order_.push_back(name_);
      FakeSink::OnStarted(together);
    }

   private:
    std::vector<std::string>& order_;
    const std::string name_;
  };
  std::vector<std::shared_ptr<OrderSink>> sinks;
  const auto submit = [&](const std::string& tenant, Priority priority) {
    Request request = MakeRequest(5, 1);
    request.tenant = tenant;
    request.priority = priority;
    auto reservation = scheduler.Reserve(5, tenant);
    ASSERT_TRUE(reservation.ok());
    sinks.push_back(std::make_shared<OrderSink>(order, tenant));
    EXPECT_TRUE(scheduler.Submit(*std::move(reservation), std::move(request), sinks.back()).ok());
  };
  submit("a", Priority::kNormal);
  executor.WaitUntilHeldAfter(0);  // it has the slot, and the others wait
  for (int i = 0; i < 20; ++i) submit("a", Priority::kNormal);
  submit("b", Priority::kNormal);
  submit("c", Priority::kHigh);
  executor.AllowAll();
  for (const auto& sink : sinks) sink->WaitUntilFinished();
  // c first; then a, whose turn it was, for the 512 tokens of a turn: each of its requests costs
  // 5 + 64; then b.
  std::vector<std::string> expected = {"a", "c"};
  expected.insert(expected.end(), 7, "a");
  expected.emplace_back("b");
  expected.insert(expected.end(), 13, "a");
  EXPECT_EQ(order, expected);
  EXPECT_EQ(observer.counts().queue_tokens, 0);
  // A place is its tenant's.
  auto reservation = scheduler.Reserve(5, "a");
  ASSERT_TRUE(reservation.ok());
  EXPECT_EQ(scheduler.Submit(*std::move(reservation), MakeRequest(5, 1), sinks[0]).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(SchedulerQueueTest, TheHeadOfTheQueueWaitsForPagesAndIsNotOvertaken) {
  ExecutorLimits limits = FakeExecutor::DefaultLimits();
  limits.kv_pages = 4;  // 256 positions
  FakeExecutor executor(limits);
  executor.Hold();
  Scheduler scheduler(executor, nullptr, nullptr, SchedulerOptions());
  auto first = std::make_shared<FakeSink>();
  auto large = std::make_shared<FakeSink>();
  auto small = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, MakeRequest(2, 5), first);       // 1 page
  SubmitOrFail(scheduler, MakeRequest(2, 255, 1), large);  // all pages
  SubmitOrFail(scheduler, MakeRequest(2, 1, 2), small);    // 1 page, free all the time
  executor.Allow(2);
  executor.WaitUntilHeldAfter(2);
  EXPECT_TRUE(first->started());
  EXPECT_FALSE(large->started());
  EXPECT_FALSE(small->started());
  executor.Allow(4);
  executor.WaitUntilHeldAfter(6);
  EXPECT_TRUE(first->finished());
  EXPECT_TRUE(large->started());
  EXPECT_FALSE(small->started());
  executor.AllowAll();
  large->WaitUntilFinished();
  EXPECT_EQ(small->WaitUntilFinished().reason, FinishReason::kLength);
  EXPECT_EQ(executor.free_pages(), 4);
}

}  // namespace
}  // namespace t2r

// Many clients at once: every accepted request ends exactly once and everything is given back.
// FakeSink and FakeExecutor check order, room and the executor's contract on the way.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

constexpr int kThreads = 6;
constexpr int kRequestsPerThread = 150;

struct Client {
  std::shared_ptr<FakeSink> sink;
  Request request;
  bool cancelled = false;
};

class StressTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  StressTest() : executor_(Limits()) {
    SchedulerOptions options;
    options.max_prompt_chunk = 5;
    options.max_queue_requests = 20;
    options.max_queue_tokens = 400;
    options.eos_token_ids = {42};
    scheduler_ = std::make_unique<Scheduler>(executor_, nullptr, &observer_, options);
  }

  static ExecutorLimits Limits() {
    ExecutorLimits limits = FakeExecutor::DefaultLimits();
    limits.slots = 10;
    limits.max_step_tokens = 8;  // fewer rows than slots
    limits.kv_pages = 6;
    return limits;
  }

  // Submits, cancels and reads slowly, until done or the scheduler drains.
  void RunClient(uint32_t seed, std::vector<Client>* clients) {
    std::mt19937 random(seed);
    const auto draw = [&random](uint32_t n) { return static_cast<int>(random() % n); };
    for (int i = 0; i < kRequestsPerThread; ++i) {
      Client client;
      client.request = MakeRequest(1 + draw(40), 1 + draw(30), draw(1000));
      client.request.score = draw(5) == 0;
      if (draw(10) == 0) client.request.deadline = absl::Now() + absl::Microseconds(draw(3000));
      const bool slow = draw(4) == 0;
      client.sink = std::make_shared<FakeSink>(slow ? 2 : int64_t{1} << 40);
      auto reservation = scheduler_->Reserve(client.request.prompt.size() + draw(10));
      if (!reservation.ok()) {
        if (reservation.status().code() == absl::StatusCode::kUnavailable) break;
        EXPECT_EQ(reservation.status().code(), absl::StatusCode::kResourceExhausted);
        std::this_thread::yield();
        --i;  // again, with another one
        continue;
      }
      if (draw(20) == 0) continue;  // gives its place up
      const auto id = scheduler_->Submit(*std::move(reservation), client.request, client.sink);
      if (!id.ok()) {
        EXPECT_EQ(id.status().code(), absl::StatusCode::kUnavailable) << id.status();
        break;
      }
      if (draw(4) == 0) {
        for (int pause = draw(50); pause > 0; --pause) std::this_thread::yield();
        scheduler_->Cancel(*id);
        client.cancelled = true;
      } else if (slow) {
        client.sink->AddRoom(1000);
        scheduler_->Wake();
      }
      clients->push_back(std::move(client));
    }
  }

  void Check(const Client& client, bool drained) {
    const FinishEvent finish = client.sink->WaitUntilFinished();
    const std::vector<int32_t> tokens = client.sink->tokens();
    EXPECT_EQ(finish.generated_tokens, static_cast<int64_t>(tokens.size()));
    EXPECT_EQ(client.sink.use_count(), 1);
    if (!client.request.score) {
      EXPECT_EQ(tokens, ExpectedTokens(client.request.prompt, tokens.size(), 100));
    }
    switch (finish.reason) {
      case FinishReason::kLength:
        EXPECT_EQ(finish.generated_tokens, client.request.max_tokens);
        break;
      case FinishReason::kEos:
        EXPECT_EQ(tokens.back(), 42);
        break;
      case FinishReason::kScored:
        EXPECT_EQ(finish.scores.size(), client.request.prompt.size() - 1);
        break;
      case FinishReason::kCancelled:
        EXPECT_TRUE(client.cancelled);
        break;
      case FinishReason::kDeadline:
        EXPECT_NE(client.request.deadline, absl::InfiniteFuture());
        break;
      case FinishReason::kDrained:
        EXPECT_TRUE(drained);
        break;
      default:
        ADD_FAILURE() << NameOf(finish.reason) << ": " << finish.status;
    }
  }

  FakeExecutor executor_;
  FakeObserver observer_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_P(StressTest, EveryRequestEndsOnce) {
  std::vector<std::vector<Client>> clients(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &clients] { RunClient(GetParam() * 100 + t, &clients[t]); });
  }
  for (std::thread& thread : threads) thread.join();
  scheduler_->Drain(absl::InfiniteFuture());
  int64_t accepted = 0;
  for (const std::vector<Client>& list : clients) {
    accepted += static_cast<int64_t>(list.size());
    for (const Client& client : list) Check(client, false);
  }
  EXPECT_GT(accepted, 0);
  const FakeObserver::Counts counts = observer_.counts();
  EXPECT_EQ(counts.submitted, accepted);
  EXPECT_EQ(counts.finished, accepted);
  EXPECT_EQ(counts.queue_requests, 0);
  EXPECT_EQ(counts.queue_tokens, 0);
  EXPECT_LE(counts.max_queue_requests, 20);
  EXPECT_EQ(executor_.open_slots(), 0);
  EXPECT_EQ(executor_.free_pages(), Limits().kv_pages);
}

TEST_P(StressTest, DestroyedInTheMiddle) {
  std::vector<std::vector<Client>> clients(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &clients] { RunClient(GetParam() * 100 + t, &clients[t]); });
  }
  while (observer_.counts().finished < 30) std::this_thread::yield();
  scheduler_->Drain(absl::InfinitePast());
  for (std::thread& thread : threads) thread.join();
  scheduler_.reset();
  for (const std::vector<Client>& list : clients) {
    for (const Client& client : list) Check(client, true);
  }
  const FakeObserver::Counts counts = observer_.counts();
  EXPECT_EQ(counts.submitted, counts.finished);
  EXPECT_EQ(counts.queue_requests, 0);
  EXPECT_EQ(executor_.open_slots(), 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, StressTest, ::testing::Values(1U, 2U, 3U));

}  // namespace
}  // namespace t2r

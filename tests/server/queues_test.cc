// WorkerPool, BatchQueue and WriteQueue.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "server/batch_queue.h"
#include "server/worker_pool.h"
#include "server/write_queue.h"

namespace t2r::server {
namespace {

// A pool of one thread that is held inside a task until Open.
class HeldPool {
 public:
  explicit HeldPool(size_t max_waiting = 1000) : pool(1, max_waiting) {
    pool.Post(1, [this](bool /*dropped*/) {
      inside_.set_value();
      gate_.get_future().wait();
    });
    inside_.get_future().wait();  // nothing waits now
  }
  void Open() { gate_.set_value(); }

 private:
  std::promise<void> gate_, inside_;

 public:
  WorkerPool pool;  // first to go
};

TEST(WorkerPoolTest, RunsEverything) {
  std::atomic<int> ran{0};
  WorkerPool pool(3, 1000);
  for (int i = 0; i < 100; ++i) {
    pool.Post(i * 5000, [&](bool dropped) { ran += dropped ? 0 : 1; });
  }
  pool.WaitUntilIdle(absl::InfiniteFuture());
  EXPECT_EQ(ran, 100);
}

TEST(WorkerPoolTest, TryPostIsBounded) {
  HeldPool held(2);
  const auto nothing = [](bool) {};
  EXPECT_NE(held.pool.TryPost(1, nothing), 0U);
  EXPECT_NE(held.pool.TryPost(1, nothing), 0U);
  EXPECT_EQ(held.pool.TryPost(1, nothing), 0U);
  held.Open();
}

TEST(WorkerPoolTest, CheapWorkOvertakesCostlyWork) {
  HeldPool held;
  std::vector<int> order;  // the pool has one thread
  held.pool.Post(4 << 20, [&](bool) { order.push_back(0); });
  held.pool.Post(1 << 20, [&](bool) { order.push_back(1); });
  held.pool.Post(10, [&](bool) { order.push_back(2); });
  held.Open();
  held.pool.WaitUntilIdle(absl::InfiniteFuture());
  EXPECT_EQ(order, (std::vector<int>{2, 1, 0}));
}

TEST(WorkerPoolTest, CostlyWorkLeavesAThreadToTheRest) {
  WorkerPool pool(2, 1000);
  std::promise<void> gate;
  std::shared_future<void> open = gate.get_future().share();
  std::atomic<int> costly{0};
  for (int i = 0; i < 3; ++i) {
    pool.Post(1 << 20, [&, open](bool) {
      ++costly;
      open.wait();
    });
  }
  std::promise<void> ran;
  pool.Post(10, [&](bool) { ran.set_value(); });
  ran.get_future().wait();
  EXPECT_LE(costly, 1);
  gate.set_value();
  pool.WaitUntilIdle(absl::InfiniteFuture());
  EXPECT_EQ(costly, 3);
}

TEST(WorkerPoolTest, WhatIsRemovedNeverRuns) {
  HeldPool held;
  const auto kept = std::make_shared<int>(0);
  const WorkerPool::Ticket ticket = held.pool.Post(1, [kept](bool) { ++*kept; });
  EXPECT_EQ(kept.use_count(), 2);
  EXPECT_TRUE(held.pool.Remove(ticket));
  EXPECT_EQ(kept.use_count(), 1) << "what it held is given back at once";
  EXPECT_FALSE(held.pool.Remove(ticket));
  held.Open();
  held.pool.WaitUntilIdle(absl::InfiniteFuture());
  EXPECT_EQ(*kept, 0);
}

TEST(WorkerPoolTest, StopDropsWhatWaits) {
  HeldPool held;
  std::atomic<int> dropped{0};
  std::promise<void> heard;
  for (int i = 0; i < 3; ++i) {
    held.pool.Post(1, [&](bool was_dropped) {
      dropped += was_dropped ? 1 : 0;
      if (dropped == 3) heard.set_value();
    });
  }
  std::thread stop([&] { held.pool.Stop(); });
  heard.get_future().wait();  // although one still runs
  held.Open();
  stop.join();
  held.pool.Post(1, [&](bool was_dropped) { dropped += was_dropped ? 1 : 0; });
  EXPECT_EQ(dropped, 4);
}

TEST(BatchQueueTest, HoldsSoManyAndCountsTheRest) {
  BatchQueue<int> queue(3);
  for (int i = 0; i < 5; ++i) queue.Push(i);
  EXPECT_EQ(queue.dropped(), 2);
  std::vector<int> batch = {7};
  ASSERT_TRUE(queue.Take(&batch));
  EXPECT_EQ(batch, (std::vector<int>{0, 1, 2}));
  queue.Push(5);  // there is room again
  EXPECT_EQ(queue.dropped(), 2);
}

TEST(BatchQueueTest, WhatWaitsIsTakenAlthoughItIsClosed) {
  BatchQueue<int> queue(10, /*enough=*/5, absl::Hours(24));
  queue.Push(1);
  queue.Close();
  std::vector<int> batch;
  ASSERT_TRUE(queue.Take(&batch));
  EXPECT_EQ(batch, (std::vector<int>{1}));
  EXPECT_FALSE(queue.Take(&batch));
  EXPECT_TRUE(batch.empty());
}

TEST(BatchQueueTest, WaitsForMoreNoLongerThanUntilThereIsEnough) {
  BatchQueue<int> queue(10, /*enough=*/3, absl::Hours(24));
  std::vector<int> batch;
  std::thread consumer([&] { queue.Take(&batch); });
  for (int i = 0; i < 3; ++i) queue.Push(i);
  consumer.join();
  EXPECT_EQ(batch, (std::vector<int>{0, 1, 2}));
}

TEST(BatchQueueTest, WaitsForMoreAsLongAsItLingers) {
  constexpr std::chrono::milliseconds kLinger(5);
  BatchQueue<int> queue(10, /*enough=*/3, absl::FromChrono(kLinger));
  queue.Push(1);
  std::vector<int> batch;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(queue.Take(&batch));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, kLinger);
  EXPECT_EQ(batch, (std::vector<int>{1}));
}

TEST(BatchQueueTest, FlushWaitsForTheWorkOnWhatWasTaken) {
  BatchQueue<int> queue(10);
  std::promise<void> taken, gate;
  std::atomic<int> sum{0};
  std::thread consumer([&] {
    std::vector<int> batch;
    queue.Take(&batch);
    taken.set_value();
    gate.get_future().wait();
    do {
      for (const int item : batch) sum += item;
    } while (queue.Take(&batch));
  });
  queue.Push(1);
  taken.get_future().wait();
  const auto begin = std::chrono::steady_clock::now();
  queue.Flush(absl::Milliseconds(1));  // in vain
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1));
  gate.set_value();
  queue.Flush(absl::Minutes(5));
  EXPECT_EQ(sum, 1);
  queue.Close();
  consumer.join();
}

class Counted : public Writable {
 public:
  explicit Counted(int expected) : expected_(expected) {}
  void Pump() override {
    if (++pumps_ == expected_) done_.set_value();
  }
  void Wait() { done_.get_future().wait(); }

 private:
  const int expected_;
  int pumps_ = 0;
  std::promise<void> done_;
};

TEST(WriteQueueTest, PumpsWhatIsPushed) {
  WriteQueue queue;
  const auto stream = std::make_shared<Counted>(1000);
  for (int i = 0; i < 1000; ++i) queue.Push(stream);
  stream->Wait();
}

}  // namespace
}  // namespace t2r::server

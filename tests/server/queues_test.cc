// WorkerPool and WriteQueue.
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "server/worker_pool.h"
#include "server/write_queue.h"

namespace t2r::server {
namespace {

TEST(WorkerPoolTest, RunsEverythingBeforeItEnds) {
  std::atomic<int> ran{0};
  {
    WorkerPool pool(3, 1000);
    for (int i = 0; i < 100; ++i) pool.Post([&] { ++ran; });
  }
  EXPECT_EQ(ran, 100);
}

TEST(WorkerPoolTest, TryPostIsBounded) {
  WorkerPool pool(1, 2);
  std::promise<void> gate, inside;
  std::shared_future<void> open = gate.get_future().share();
  pool.Post([&, open] {
    inside.set_value();
    open.wait();
  });
  inside.get_future().wait();  // nothing waits now
  EXPECT_TRUE(pool.TryPost([] {}));
  EXPECT_TRUE(pool.TryPost([] {}));
  EXPECT_FALSE(pool.TryPost([] {}));
  gate.set_value();
  pool.Stop();
  EXPECT_FALSE(pool.TryPost([] {}));
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

TEST(WriteQueueTest, RunsTimersInTheirOrder) {
  WriteQueue queue;
  std::mutex mutex;
  std::vector<int> order;
  std::promise<void> last;
  const auto note = [&](int n) {
    const std::lock_guard lock(mutex);
    order.push_back(n);
    if (n == 2) last.set_value();
  };
  queue.After(std::chrono::milliseconds(60), [&] { note(2); });
  queue.After(std::chrono::milliseconds(1), [&] { note(1); });
  last.get_future().wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

}  // namespace
}  // namespace t2r::server

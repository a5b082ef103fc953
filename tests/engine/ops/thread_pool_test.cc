#include "engine/ops/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "engine/ops/tensor.h"

namespace t2r {
namespace {

TEST(ThreadPoolTest, EveryTaskRunsOnceInEveryLoop) {
  ThreadPool pool(4);
  EXPECT_EQ(pool.threads(), 4);
  for (int loop = 0; loop < 2000; ++loop) {
    const int64_t count = loop % 37;
    std::vector<int> hits(count, 0);  // plain: a task runs once, and before Run returns
    pool.Run(count, [&](int64_t task, int) { ++hits[task]; });
    ASSERT_EQ(hits, std::vector<int>(count, 1)) << "loop " << loop;
  }
}

TEST(ThreadPoolTest, WorkersAreDistinctWhileTheyRun) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> inside(3);
  std::atomic<int> clashes{0};
  pool.Run(5000, [&](int64_t, int worker) {
    if (inside.at(worker).fetch_add(1) != 0) ++clashes;
    inside.at(worker).fetch_sub(1);
  });
  EXPECT_EQ(clashes.load(), 0);
}

// A task may take as long as it likes: here the first waits until another thread runs a second.
TEST(ThreadPoolTest, ALongTaskDoesNotHoldUpTheOthers) {
  ThreadPool pool(2);
  std::atomic<int> others{0};
  pool.Run(50, [&](int64_t task, int) {
    if (task == 0) {
      while (others.load() < 49) std::this_thread::yield();
    } else {
      ++others;
    }
  });
  EXPECT_EQ(others.load(), 49);
}

TEST(ThreadPoolTest, OneThreadRunsInOrder) {
  ThreadPool pool(1);
  std::vector<int64_t> order;
  pool.Run(5, [&](int64_t task, int worker) {
    EXPECT_EQ(worker, 0);
    order.push_back(task);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(ThreadPoolTest, StopsWhetherItsWorkersSpinSleepOrNeverWorked) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 4);
    if (i % 2 == 0) pool.Run(i, [](int64_t, int) {});
  }
}

}  // namespace
}  // namespace t2r

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

TEST(ThreadPoolTest, SharesTileALoop) {
  for (int threads = 1; threads <= 5; ++threads) {
    const ThreadPool pool(threads);
    for (int64_t count = 1; count <= 23; ++count) {
      int64_t next = 0;
      for (int worker = 0; worker < threads; ++worker) {
        const ThreadPool::Tasks share = pool.ShareOf(worker, count);
        EXPECT_EQ(share.first, next);
        next = share.end;
        for (int64_t task = share.first; task < share.end; ++task) {
          EXPECT_EQ(pool.ShareWith(task, count).first, share.first) << task << " of " << count;
          EXPECT_EQ(pool.ShareWith(task, count).end, share.end) << task << " of " << count;
        }
      }
      EXPECT_EQ(next, count);
    }
  }
}

TEST(ThreadPoolTest, AThreadTakesItsOwnFromTheFrontAndOthersFromTheBack) {
  constexpr int64_t kCount = 64;
  ThreadPool pool(2);
  std::vector<std::vector<int64_t>> taken(2);
  // The worker waits until the caller has begun, and then the caller until the worker has taken all
  // others.
  std::atomic<bool> begun{false};
  std::atomic<int64_t> done{0};
  pool.Run(kCount, [&](int64_t task, int worker) {
    if (worker == 0) begun = true;
    while (!begun.load()) std::this_thread::yield();
    while (worker == 0 && done.load() < kCount - 1) std::this_thread::yield();
    taken[worker].push_back(task);
    ++done;
  });
  EXPECT_EQ(taken[0], std::vector<int64_t>{0});
  std::vector<int64_t> expected;
  for (int64_t task = kCount / 2; task < kCount; ++task) expected.push_back(task);
  for (int64_t task = kCount / 2 - 1; task > 0; --task) expected.push_back(task);
  EXPECT_EQ(taken[1], expected);
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

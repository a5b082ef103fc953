#include "convert/train/shards.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "convert/error.h"

namespace t2r::convert {
namespace {

// Threads that may still start; below 0: any number.
std::atomic<int> threads_left{-1};

TEST(ForEachShard, RunsEveryShardAndThrowsWhatTheFirstOfThemThrew) {
  std::vector<int> ran(5, 0);
  const auto work = [&](size_t shard, size_t shards) {
    EXPECT_EQ(shards, 5U);
    ++ran[shard];
    if (shard == 2 || shard == 4) throw ConvertError("shard " + std::to_string(shard));
  };
  EXPECT_THAT([&] { ForEachShard(5, 5, work); }, ::testing::ThrowsMessage<ConvertError>("shard 2"));
  EXPECT_EQ(ran, std::vector<int>(5, 1));
  EXPECT_NO_THROW(ForEachShard(0, 5, work));
}

TEST(ForEachShard, SharesItsThreadsAmongFewShards) {
  torch::set_num_threads(1);
  for (const auto& [items, threads, each] : {std::tuple{1, 3, 3}, {2, 5, 2}, {3, 2, 1}}) {
    std::vector<int> seen(static_cast<size_t>(std::min(items, threads)));
    ForEachShard(static_cast<size_t>(items), threads, [&](size_t shard, size_t shards) {
      EXPECT_EQ(shards, seen.size());
      seen[shard] = torch::get_num_threads();
    });
    EXPECT_THAT(seen, ::testing::Each(each)) << items << " items, threads " << threads;
    EXPECT_EQ(torch::get_num_threads(), 1);
  }
}

TEST(ForEachShard, RunsEveryShardWhereThreadsCannotStart) {
  torch::set_num_threads(1);
  for (const int threads : {0, 1, 3}) {
    std::vector<std::thread::id> ran(5);
    threads_left = threads;
    ForEachShard(5, 5, [&](size_t shard, size_t) { ran[shard] = std::this_thread::get_id(); });
    threads_left = -1;
    for (size_t shard = 0; shard < ran.size(); ++shard) {
      EXPECT_NE(ran[shard], std::thread::id());
      const bool own = shard >= 1 && shard <= static_cast<size_t>(threads);
      EXPECT_EQ(ran[shard] != std::this_thread::get_id(), own) << shard << " of " << threads;
    }
  }
}

}  // namespace
}  // namespace t2r::convert

// Stands before the system's: refuses threads where a test wants it.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*run)(void*), void* argument) {
  using Create = int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static auto* const create = reinterpret_cast<Create*>(dlsym(RTLD_NEXT, "pthread_create"));
  if (t2r::convert::threads_left == 0) return EAGAIN;
  if (t2r::convert::threads_left > 0) --t2r::convert::threads_left;
  return create(thread, attributes, run, argument);
}

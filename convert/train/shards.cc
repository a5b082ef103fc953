#include "convert/train/shards.h"

#include <torch/torch.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

#include "convert/runtime.h"

namespace t2r::convert {

void ForEachShard(size_t items, int threads,
                  const std::function<void(size_t shard, size_t shards)>& work) {
  if (items == 0) return;
  const size_t shards = std::min(items, static_cast<size_t>(std::max(1, threads)));
  const int operator_threads = std::max(1, threads / static_cast<int>(shards));
  const OperatorThreads of_caller(operator_threads);
  std::vector<std::exception_ptr> errors(shards);
  const auto run = [&](size_t shard) {
    try {
      work(shard, shards);
    } catch (...) {
      errors[shard] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  // A thread that cannot start leaves its shard and those after it to the caller.
  size_t started = 1;
  try {
    others.reserve(shards);
    for (; started < shards; ++started) {
      others.emplace_back([&run, operator_threads, shard = started] {
        torch::set_num_threads(operator_threads);
        run(shard);
      });
    }
  } catch (const std::exception&) {
  }
  run(0);
  for (size_t shard = started; shard < shards; ++shard) run(shard);
  for (auto& thread : others) thread.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace t2r::convert

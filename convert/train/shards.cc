#include "convert/train/shards.h"

#include <torch/torch.h>

#include <exception>
#include <thread>
#include <vector>

namespace t2r::convert {

void ForEachShard(size_t shards, const std::function<void(size_t shard, size_t shards)>& work) {
  std::vector<std::exception_ptr> errors(shards);
  const auto run = [&](size_t shard) {
    try {
      work(shard, shards);
    } catch (...) {
      errors[shard] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  // A thread that cannot start leaves its shard and those after it to the caller.
  size_t started = 1;
  try {
    threads.reserve(shards);
    for (; started < shards; ++started) {
      threads.emplace_back([&run, shard = started] {
        torch::set_num_threads(1);
        run(shard);
      });
    }
  } catch (const std::exception&) {
  }
  if (shards > 0) run(0);
  for (size_t shard = started; shard < shards; ++shard) run(shard);
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace t2r::convert

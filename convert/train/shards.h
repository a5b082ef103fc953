// Work on several threads of its own, as LibTorch wants them.
#pragma once

#include <cstddef>
#include <functional>

namespace t2r::convert {

// Shares `items` pieces of work among `threads` threads, at least one: calls work(shard, shards)
// for min(items, threads) shards, one thread each (the first on the caller's). Of fewer items than
// threads, operators within share the threads that are left. Where the system gives no more
// threads, the caller runs the shards that are left. Rethrows the first shard's exception once all
// have ended.
void ForEachShard(size_t items, int threads,
                  const std::function<void(size_t shard, size_t shards)>& work);

}  // namespace t2r::convert

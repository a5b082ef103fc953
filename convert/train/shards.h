// Work on several threads of its own, as LibTorch wants them.
#pragma once

#include <cstddef>
#include <functional>

namespace t2r::convert {

// Calls work(shard, shards) for every shard, one thread each (the first on the caller's); operators
// within share `threads`, as with fewer shards than threads, and use at least one. Where the system
// gives no more threads, the caller runs the shards that are left. Rethrows the first shard's
// exception once all have ended.
void ForEachShard(size_t shards, const std::function<void(size_t shard, size_t shards)>& work,
                  int threads = 1);

}  // namespace t2r::convert

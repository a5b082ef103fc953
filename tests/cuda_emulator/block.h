// The threads of one block, each a fiber, and the places where they meet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "tests/cuda_emulator/vector_types.h"

namespace emulator {

// A line of device code: as std::source_location, which clang-tidy 14 does not know.
struct Place {
  const char* file = "";
  int line = 0;

  static Place Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct BlockVote {
  int set = 0;      // threads whose predicate held
  int threads = 0;  // that met
};

// What each lane of a warp brought to a meeting.
struct WarpWords {
  uint32_t lanes = 0;  // those that met
  const uint64_t* values = nullptr;

  // Reports a lane that was not there.
  uint64_t At(int lane, Place place) const;
  unsigned Ballot() const;
};

// ---- Called by device code ----
// Waits until every thread of the block that has not ended is here.
BlockVote MeetBlock(bool predicate, Place place);
// Waits until the lanes in `mask` that have not ended are here. The words stay until the next turn.
WarpWords MeetWarp(uint32_t mask, uint64_t word, Place place);
int Lane();
// The block's array that belongs to `tag`, made at the first call.
void* Shared(const void* tag, size_t bytes);
void* DynamicShared();

// ---- Called by a launch ----
// The order of threads and blocks.
enum class LaneOrder { kForward, kReverse, kShuffled };

// Runs all blocks of a grid. Returns what went wrong ("" if nothing): threads that wait for each
// other for ever, meetings that not all reach, too much shared memory. `name` is for the report.
std::string RunGrid(const std::string& name, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                    const std::function<void()>& thread, LaneOrder order);

}  // namespace emulator

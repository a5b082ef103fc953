#include "tests/cuda_emulator/block.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "tests/cuda_emulator/device_functions.h"
#include "tests/cuda_emulator/fiber.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address))
#endif

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace emulator {
namespace {

// A block's shared memory: what __shared__ arrays may take, and both kinds together on sm_80.
constexpr size_t kMaxStaticShared = 48 * 1024;
constexpr size_t kMaxShared = 163 * 1024;
constexpr size_t kArenaBytes = 256 * 1024;  // with room between the arrays
constexpr size_t kGap = 128;
constexpr int kSnapshots = 64;  // meetings of a warp whose words may still be read

enum class State : uint8_t { kNew, kReady, kAtBlock, kAtWarp, kEnded };

struct Thread {
  State state = State::kNew;
  Fiber* fiber = nullptr;
  Place place;
  uint32_t mask = 0;  // kAtWarp
  uint64_t word = 0;  // kAtWarp
  WarpWords words;    // of the last meeting
  uint3 index = {};
};

struct Snapshot {
  std::array<uint64_t, 32> values;
};

struct Warp {
  std::array<Snapshot, kSnapshots> snapshots;
  int next = 0;
  uint32_t alive = 0;    // lanes that have not ended
  uint32_t waiting = 0;  // lanes in MeetWarp
};

class BlockRunner {
 public:
  BlockRunner() : arena_(static_cast<char*>(::operator new (kArenaBytes, std::align_val_t{256}))) {}
  ~BlockRunner() {
    ASAN_UNPOISON_MEMORY_REGION(arena_, kArenaBytes);
    ::operator delete (arena_, std::align_val_t{256});
  }
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  std::string Run(dim3 block, size_t dynamic_bytes, const std::function<void()>& thread,
                  LaneOrder order, std::mt19937& random);

  BlockVote MeetBlock(bool predicate, Place place);
  WarpWords MeetWarp(uint32_t mask, uint64_t word, Place place);
  int lane() const { return current_ % 32; }
  void* Shared(const void* tag, size_t bytes);
  void* dynamic() const { return dynamic_; }
  void Fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

 private:
  void* Carve(size_t bytes);
  void Turn(int thread);
  void OnEnd(int thread);
  void ReleaseBlock();
  bool ReleaseWarp(int warp, uint32_t mask);
  std::string Deadlock() const;

  char* arena_;
  size_t used_ = 0;
  size_t static_bytes_ = 0;
  void* dynamic_ = nullptr;
  std::vector<std::pair<const void*, void*>> shared_;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Warp>> warps_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_fibers_;
  const std::function<void()>* thread_ = nullptr;
  int current_ = 0;
  int ended_ = 0;
  int arrived_ = 0;
  Place barrier_;  // of the first that arrived
  int set_ = 0;
  BlockVote vote_[2];
  unsigned meetings_ = 0;
  std::string error_;
};

BlockRunner* runner = nullptr;

std::string At(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

void* BlockRunner::Carve(size_t bytes) {
  const size_t rounded = (bytes + kGap - 1) / kGap * kGap;
  if (used_ + rounded + kGap > kArenaBytes) return nullptr;
  char* at = arena_ + used_;
  used_ += rounded + kGap;
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
  std::memset(at, 0xff, bytes);
  return at;
}

void* BlockRunner::Shared(const void* tag, size_t bytes) {
  for (const auto& [known, data] : shared_) {
    if (known == tag) return data;
  }
  static_bytes_ += bytes;
  if (static_bytes_ > kMaxStaticShared) {
    Fail("__shared__ arrays of " + std::to_string(static_bytes_) + " bytes");
  }
  void* data = Carve(bytes);
  if (data == nullptr) {  // the launch fails, but this thread must go on until its turn ends
    static std::map<const void*, std::unique_ptr<char[]>> spare;
    auto& memory = spare[tag];
    if (memory == nullptr) memory = std::make_unique<char[]>(bytes);
    data = memory.get();
  }
  shared_.emplace_back(tag, data);
  return data;
}

BlockVote BlockRunner::MeetBlock(bool predicate, Place place) {
  if (arrived_ == 0) {
    barrier_ = place;
  } else if (barrier_.line != place.line) {
    Fail("threads wait at different barriers, " + At(barrier_) + " and " + At(place));
  }
  const unsigned meeting = meetings_;
  ++arrived_;
  if (predicate) ++set_;
  threads_[current_].state = State::kAtBlock;
  threads_[current_].place = place;
  if (arrived_ + ended_ == static_cast<int>(threads_.size())) {
    ReleaseBlock();
  }
  if (threads_[current_].state == State::kAtBlock) Fiber::Yield();
  return vote_[meeting % 2];
}

void BlockRunner::ReleaseBlock() {
  vote_[meetings_ % 2] = {set_, arrived_};
  ++meetings_;
  arrived_ = 0;
  set_ = 0;
  for (Thread& thread : threads_) {
    if (thread.state == State::kAtBlock) thread.state = State::kReady;
  }
}

bool BlockRunner::ReleaseWarp(int warp, uint32_t mask) {
  Warp& meeting = *warps_[warp];
  const uint32_t expected = mask & meeting.alive;
  if ((meeting.waiting & expected) != expected) return false;
  Thread* lanes = &threads_[static_cast<size_t>(warp) * 32];
  for (uint32_t rest = expected; rest != 0; rest &= rest - 1) {
    const Thread& lane = lanes[std::countr_zero(rest)];
    if (lane.mask != mask) return false;
  }
  meeting.waiting &= ~expected;
  Snapshot& snapshot = meeting.snapshots[meeting.next];
  meeting.next = (meeting.next + 1) % kSnapshots;
  Place place;
  bool first = true;
  for (uint32_t rest = expected; rest != 0; rest &= rest - 1) {
    const int index = std::countr_zero(rest);
    Thread& lane = lanes[index];
    if (!first && lane.place.line != place.line) {
      Fail("lanes of a warp meet at different places, " + At(place) + " and " + At(lane.place));
    }
    place = lane.place;
    first = false;
    snapshot.values[index] = lane.word;
    lane.words = {expected, snapshot.values.data()};
    lane.state = State::kReady;
  }
  return true;
}

WarpWords BlockRunner::MeetWarp(uint32_t mask, uint64_t word, Place place) {
  Thread& self = threads_[current_];
  if ((mask >> lane() & 1U) == 0) {
    Fail("a lane that its own mask leaves out meets its warp at " + At(place));
  }
  self.mask = mask;
  self.word = word;
  self.state = State::kAtWarp;
  self.place = place;
  warps_[current_ / 32]->waiting |= 1U << lane();
  ReleaseWarp(current_ / 32, mask);
  // The last one goes on at once.
  if (self.state == State::kAtWarp) Fiber::Yield();
  return self.words;
}

void BlockRunner::OnEnd(int thread) {
  threads_[thread].state = State::kEnded;
  ++ended_;
  free_fibers_.push_back(threads_[thread].fiber);
  if (arrived_ > 0 && arrived_ + ended_ == static_cast<int>(threads_.size())) ReleaseBlock();
  Warp& warp = *warps_[thread / 32];
  warp.alive &= ~(1U << (thread % 32));
  for (uint32_t rest = warp.waiting; rest != 0; rest &= rest - 1) {
    const Thread& waiting = threads_[thread / 32 * 32 + std::countr_zero(rest)];
    if (waiting.state == State::kAtWarp) ReleaseWarp(thread / 32, waiting.mask);
  }
}

void BlockRunner::Turn(int thread) {
  Thread& self = threads_[thread];
  current_ = thread;
  threadIdx = self.index;
  bool ended = false;
  if (self.state == State::kNew) {
    if (free_fibers_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>());
      free_fibers_.push_back(fibers_.back().get());
    }
    self.fiber = free_fibers_.back();
    free_fibers_.pop_back();
    self.state = State::kReady;
    ended = self.fiber->Start(
        [](void* function) { (*static_cast<const std::function<void()>*>(function))(); },
        const_cast<std::function<void()>*>(thread_));
  } else {
    ended = self.fiber->Resume();
  }
  if (ended) OnEnd(thread);
}

std::string BlockRunner::Deadlock() const {
  std::map<std::string, int> waiting;
  for (const Thread& thread : threads_) {
    if (thread.state == State::kAtBlock) ++waiting["the block's barrier at " + At(thread.place)];
    if (thread.state == State::kAtWarp) ++waiting["their warp at " + At(thread.place)];
  }
  std::string report = "threads wait for each other for ever:";
  for (const auto& [place, count] : waiting) {
    report += " " + std::to_string(count) + " for " + place + ";";
  }
  return report + " " + std::to_string(ended_) + " have ended";
}

std::string BlockRunner::Run(dim3 block, size_t dynamic_bytes, const std::function<void()>& thread,
                             LaneOrder order, std::mt19937& random) {
  const int count = static_cast<int>(block.x * block.y * block.z);
  threads_.assign(count, {});
  while (warps_.size() * 32 < threads_.size()) warps_.push_back(std::make_unique<Warp>());
  free_fibers_.clear();
  for (const auto& fiber : fibers_) free_fibers_.push_back(fiber.get());
  for (const auto& warp : warps_) warp->alive = warp->waiting = 0;
  thread_ = &thread;
  ended_ = arrived_ = set_ = 0;
  error_.clear();
  used_ = static_bytes_ = 0;
  shared_.clear();
  ASAN_POISON_MEMORY_REGION(arena_, kArenaBytes);
  dynamic_ = Carve(dynamic_bytes);
  std::vector<int> turns(count);
  std::iota(turns.begin(), turns.end(), 0);
  if (order == LaneOrder::kReverse) std::reverse(turns.begin(), turns.end());
  for (int i = 0; i < count; ++i) {
    const auto linear = static_cast<unsigned>(i);
    warps_[i / 32]->alive |= 1U << (i % 32);
    threads_[i].index = {linear % block.x, linear / block.x % block.y, linear / block.x / block.y};
  }
  while (ended_ < count) {
    if (order == LaneOrder::kShuffled) std::shuffle(turns.begin(), turns.end(), random);
    bool progress = false;
    for (const int turn : turns) {
      if (threads_[turn].state != State::kNew && threads_[turn].state != State::kReady) continue;
      progress = true;
      Turn(turn);
      if (!error_.empty()) return error_;
    }
    if (!progress) return Deadlock();
  }
  if (dynamic_bytes + static_bytes_ > kMaxShared) {
    return "a block takes " + std::to_string(dynamic_bytes + static_bytes_) +
           " bytes of shared memory, an sm_80 has " + std::to_string(kMaxShared);
  }
  return error_;
}

}  // namespace

uint64_t WarpWords::At(int lane, Place place) const {
  if (lane < 0 || lane >= 32 || (lanes >> lane & 1U) == 0) {
    runner->Fail("lane " + std::to_string(lane) + ", which takes no part, is read at " +
                 emulator::At(place));
    return 0;
  }
  return values[lane];
}

unsigned WarpWords::Ballot() const {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((lanes >> lane & 1U) != 0 && values[lane] != 0) ballot |= 1U << lane;
  }
  return ballot;
}

BlockVote MeetBlock(bool predicate, Place place) { return runner->MeetBlock(predicate, place); }
WarpWords MeetWarp(uint32_t mask, uint64_t word, Place place) {
  return runner->MeetWarp(mask, word, place);
}
int Lane() { return runner->lane(); }
void* Shared(const void* tag, size_t bytes) { return runner->Shared(tag, bytes); }
void* DynamicShared() { return runner->dynamic(); }

std::string RunGrid(const std::string& name, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                    const std::function<void()>& thread, LaneOrder order) {
  static BlockRunner the_runner;
  static std::mt19937 random(1);
  runner = &the_runner;
  blockDim = block;
  gridDim = grid;
  std::vector<int64_t> blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  if (order == LaneOrder::kReverse) std::reverse(blocks.begin(), blocks.end());
  if (order == LaneOrder::kShuffled) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const int64_t index : blocks) {
    const auto linear = static_cast<unsigned>(index);
    blockIdx = {linear % grid.x, linear / grid.x % grid.y, linear / grid.x / grid.y};
    const std::string error = the_runner.Run(block, dynamic_shared_bytes, thread, order, random);
    if (error.empty()) continue;
    return "kernel " + name + ", block (" + std::to_string(blockIdx.x) + ", " +
           std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + "): " + error;
  }
  return "";
}

}  // namespace emulator

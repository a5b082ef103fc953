// Threads that share the loops of one calling thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace t2r {

// N − 1 workers and the caller, who computes too. One thread calls Run; nesting is not allowed.
//
// A loop's tasks are cut into one run of neighbours a thread (ShareOf). A thread takes its own from
// the front, one by one, so that it reads memory in order; and when it has none left, others' from
// the back. So a thread that another process keeps from its core only delays the task it holds.
// Idle workers spin for kSpinMicroseconds and then sleep: the short gaps between the ops of a step
// cost no wake-up, and an idle engine no time.
class ThreadPool {
 public:
  static constexpr int kSpinMicroseconds = 40;

  // threads ≥ 1, the caller included. Throws DeviceError when a thread cannot start.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Tasks [first, end) of a loop.
  struct Tasks {
    int64_t first;
    int64_t end;
  };
  // What a thread begins with, of a loop of `count`; the first threads, which start first, have one
  // more where it does not divide.
  Tasks ShareOf(int worker, int64_t count) const {
    const int64_t least = count / threads();
    const int64_t more = count % threads();
    return {least * worker + std::min<int64_t>(worker, more),
            least * (worker + 1) + std::min<int64_t>(worker + 1, more)};
  }
  // The share that a task belongs to.
  Tasks ShareWith(int64_t task, int64_t count) const {
    const int64_t least = count / threads();
    const int64_t longer = (least + 1) * (count % threads());  // tasks in shares of one more
    const int64_t worker =
        task < longer ? task / (least + 1) : count % threads() + (task - longer) / least;
    return ShareOf(static_cast<int>(worker), count);
  }

  // Calls fn(task, worker) for task in [0, count), count < 2^32, and returns when all are done.
  // worker, in [0, threads()), is unique among the calls that run at one time. fn must not throw.
  template <typename Fn>
  void Run(int64_t count, const Fn& fn) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t task = 0; task < count; ++task) fn(task, 0);
      return;
    }
    RunShared(
        count,
        [](const void* f, int64_t task, int worker) { (*static_cast<const Fn*>(f))(task, worker); },
        &fn);
  }

 private:
  using Call = void (*)(const void* fn, int64_t task, int worker);

  // A thread's tasks that nobody has claimed: the first << 32 | the end. Both are equal when none
  // is left.
  struct alignas(64) Unclaimed {
    std::atomic<uint64_t> tasks{0};
  };

  void RunShared(int64_t count, Call call, const void* fn);
  // Claims and runs tasks of the current loop until none is left.
  void Work(int worker);
  // Those of one thread, from the front or from the back.
  void Take(Unclaimed& unclaimed, bool front, int worker);
  void WorkerMain(int worker);

  // The current loop. Written by the caller while no task is unclaimed or running; read only by
  // holders of a claimed task.
  Call call_ = nullptr;
  const void* fn_ = nullptr;

  std::vector<Unclaimed> unclaimed_;              // one a thread
  alignas(64) std::atomic<uint32_t> running_{0};  // tasks not finished
  alignas(64) std::atomic<uint32_t> loop_{0};     // counts loops; workers sleep on it
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace t2r

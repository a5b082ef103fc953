// A few threads for work that may take long and must not run in a gRPC reaction: parsing large
// messages, tokenising, building large answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r::server {

// Cheap work overtakes costly work: a task's turn comes at its arrival plus the time that its cost
// is expected to take, fourfold; so the costly one waits at most that much longer, however much
// cheap work comes. Costly tasks run on all threads but one, so that the others find one free.
// Thread-safe.
class WorkerPool {
 public:
  // Called once, with true when the pool stops before it could run. Must not throw.
  using Task = std::function<void(bool dropped)>;
  using Ticket = uint64_t;  // 0: none

  // Above it a task counts as costly, bytes.
  static constexpr int64_t kCostly = 64 << 10;

  // threads ≥ 1; max_waiting bounds what TryPost may have waiting.
  WorkerPool(int threads, size_t max_waiting);
  ~WorkerPool();  // Stop
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // cost: bytes to be worked through. For work whose number is bounded elsewhere (a queue
  // reservation).
  Ticket Post(int64_t cost, Task task);
  // 0, and the task is destroyed, when max_waiting tasks of either kind wait already.
  Ticket TryPost(int64_t cost, Task task);
  // Destroys a task that still waits, without calling it. False when it has been called.
  bool Remove(Ticket ticket);
  // Until nothing waits or runs, at most until `deadline`.
  void WaitUntilIdle(absl::Time deadline);
  // Drops what waits, ends the threads after what they run; later tasks are dropped at once. Once
  // from one thread.
  void Stop();

 private:
  using Place = std::pair<absl::Time, Ticket>;
  using Queue = std::map<Place, Task>;

  // Takes the task where the pool still runs; otherwise leaves it in *task.
  Ticket Add(int64_t cost, Task* task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What follows an Add, without the lock: a task that was left is dropped, another announced.
  void Added(const Task& left);
  void Run();
  // The queue whose head is next; null: nothing may run.
  Queue* Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t max_waiting_;
  const int max_costly_;
  Mutex mutex_;
  CondVar ready_;
  CondVar idle_;
  Queue cheap_ ABSL_GUARDED_BY(mutex_);
  Queue costly_ ABSL_GUARDED_BY(mutex_);
  std::map<Ticket, std::pair<Queue*, Place>> places_ ABSL_GUARDED_BY(mutex_);  // of what waits
  Ticket last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_costly_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace t2r::server

// A few threads for work that may take long and must not run in a gRPC reaction: tokenising.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace t2r::server {

// Runs tasks in order of arrival. Thread-safe. A task must not throw.
class WorkerPool {
 public:
  // max_waiting bounds what TryPost may have waiting.
  WorkerPool(int threads, size_t max_waiting);
  ~WorkerPool();  // Stop
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // For work whose number is bounded elsewhere (a queue reservation).
  void Post(std::function<void()> task);
  // False, and the task is dropped, when max_waiting tasks of either kind wait already.
  bool TryPost(std::function<void()> task);
  // Runs what is queued, then ends the threads; later tasks are dropped. Once from one thread.
  void Stop();

 private:
  void Run();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace t2r::server

// Whether the port still answers, found out by connecting to it.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r::server {

// Asks in a thread of its own until destruction: after `interval` while all is well, each second
// after a failure.
class PortWatch {
 public:
  // answers: takes a connection of its own, which may last two seconds.
  PortWatch(std::function<bool()> answers, absl::Duration interval);
  ~PortWatch();
  PortWatch(const PortWatch&) = delete;
  PortWatch& operator=(const PortWatch&) = delete;

  // What the last try found; true before the first. Thread-safe.
  bool alive() const { return alive_.load(); }

 private:
  void Run();

  const std::function<bool()> answers_;
  const absl::Duration interval_;
  std::atomic<bool> alive_{true};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace t2r::server

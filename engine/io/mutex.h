// A mutex that clang's thread-safety analysis follows (scripts/lint), so that members with
// ABSL_GUARDED_BY are not touched without it. Over the C++ library's, since ThreadSanitizer does
// not see into absl's as Debian builds it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace t2r {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a mutex, but for the time between Unlock and Lock, until the end of its scope.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() {
    if (held_) mutex_.Unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() ABSL_UNLOCK_FUNCTION() {
    held_ = false;
    mutex_.Unlock();
  }
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    mutex_.Lock();
    held_ = true;
  }

 private:
  friend class CondVar;
  Mutex& mutex_;
  bool held_ = true;
};

// Waits may end early: their place is a loop over what is waited for, whose condition the analysis
// then sees under the lock.
class CondVar {
 public:
  using Clock = std::chrono::steady_clock;

  // `lock` is held before and after, and let go in between.
  void Wait(MutexLock& lock) {
    std::unique_lock held(lock.mutex_.mutex_, std::adopt_lock);
    changed_.wait(held);
    held.release();
  }
  // False once the time has passed.
  bool WaitUntil(MutexLock& lock, Clock::time_point time) {
    std::unique_lock held(lock.mutex_.mutex_, std::adopt_lock);
    const bool in_time = changed_.wait_until(held, time) == std::cv_status::no_timeout;
    held.release();
    return in_time;
  }
  void NotifyOne() { changed_.notify_one(); }
  void NotifyAll() { changed_.notify_all(); }

 private:
  std::condition_variable changed_;
};

}  // namespace t2r

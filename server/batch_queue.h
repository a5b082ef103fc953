// A queue between threads that must not wait and one whose work is slow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r::server {

// Holds items until one thread, the only one that calls Take, takes all that wait at once. The rest
// may be called by any thread. Must outlive them all.
template <typename Item>
class BatchQueue {
 public:
  // capacity: items that may wait. Once an item waits, Take gives others up to `linger` to join it,
  // or less where `enough` items wait.
  explicit BatchQueue(size_t capacity, size_t enough = 1,
                      absl::Duration linger = absl::ZeroDuration())
      : capacity_(capacity), enough_(enough), linger_(linger) {}
  BatchQueue(const BatchQueue&) = delete;
  BatchQueue& operator=(const BatchQueue&) = delete;

  // Never waits. Where `capacity` items wait already the item is dropped, and counted.
  void Push(Item item) {
    size_t waiting = 0;
    {
      const MutexLock lock(mutex_);
      if (items_.size() >= capacity_) {
        ++dropped_;
        return;
      }
      items_.push_back(std::move(item));
      waiting = items_.size();
    }
    if (waiting == 1 || waiting == enough_) ready_.NotifyOne();
  }

  // Waits until there are items, and replaces *batch, whose work is done, by all of them in their
  // order. False once the queue is closed and empty.
  bool Take(std::vector<Item>* batch) {
    batch->clear();  // what it holds goes outside the lock
    MutexLock lock(mutex_);
    taken_ = false;
    done_.NotifyAll();
    while (!closed_ && items_.empty()) ready_.Wait(lock);
    if (!closed_ && items_.size() < enough_) {
      const auto end = CondVar::Clock::now() + absl::ToChronoNanoseconds(linger_);
      bool in_time = true;
      while (in_time && !closed_ && items_.size() < enough_) in_time = ready_.WaitUntil(lock, end);
    }
    batch->swap(items_);
    taken_ = !batch->empty();
    return taken_;
  }

  // From here on Take does not wait.
  void Close() {
    {
      const MutexLock lock(mutex_);
      closed_ = true;
    }
    ready_.NotifyOne();
  }

  // Until nothing waits and the work on what was taken is done, at most `limit`.
  void Flush(absl::Duration limit) {
    const CondVar::Clock::time_point end = CondVar::Clock::now() + absl::ToChronoNanoseconds(limit);
    MutexLock lock(mutex_);
    bool in_time = true;
    while (in_time && (taken_ || !items_.empty())) in_time = done_.WaitUntil(lock, end);
  }

  // Items that were dropped so far.
  int64_t dropped() const {
    const MutexLock lock(mutex_);
    return dropped_;
  }

 private:
  const size_t capacity_;
  const size_t enough_;
  const absl::Duration linger_;
  mutable Mutex mutex_;
  CondVar ready_;  // for Take
  CondVar done_;   // for Flush
  std::vector<Item> items_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;  // the last batch is being worked on
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace t2r::server

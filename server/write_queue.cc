#include "server/write_queue.h"

#include <utility>

namespace t2r::server {

WriteQueue::WriteQueue() : thread_([this] { Run(); }) {}

WriteQueue::~WriteQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_one();
  thread_.join();
}

void WriteQueue::Push(std::shared_ptr<Writable> stream) {
  bool first;
  {
    const std::lock_guard lock(mutex_);
    first = streams_.empty();
    streams_.push_back(std::move(stream));
  }
  if (first) ready_.notify_one();
}

void WriteQueue::After(std::chrono::steady_clock::duration delay, std::function<void()> action) {
  {
    const std::lock_guard lock(mutex_);
    timers_.emplace(std::chrono::steady_clock::now() + delay, std::move(action));
  }
  ready_.notify_one();
}

void WriteQueue::Run() {
  std::vector<std::shared_ptr<Writable>> batch;
  std::unique_lock lock(mutex_);
  while (true) {
    if (!timers_.empty() && timers_.begin()->first <= std::chrono::steady_clock::now()) {
      const std::function<void()> action = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      lock.unlock();
      action();
      lock.lock();
    } else if (!streams_.empty()) {
      batch.swap(streams_);
      lock.unlock();
      for (const std::shared_ptr<Writable>& stream : batch) stream->Pump();
      batch.clear();
      lock.lock();
    } else if (stopping_) {
      return;
    } else if (timers_.empty()) {
      ready_.wait(lock);
    } else {
      const auto next = timers_.begin()->first;
      ready_.wait_until(lock, next);
    }
  }
}

}  // namespace t2r::server

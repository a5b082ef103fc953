#include "server/port_watch.h"

#include <algorithm>
#include <utility>

namespace t2r::server {

PortWatch::PortWatch(std::function<bool()> answers, absl::Duration interval)
    : answers_(std::move(answers)), interval_(interval), thread_([this] { Run(); }) {}

PortWatch::~PortWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void PortWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    alive_ = answers_();
    lock.lock();
    const absl::Duration pause = alive_ ? interval_ : std::min(interval_, absl::Seconds(1));
    changed_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this] { return stopping_; });
  }
}

}  // namespace t2r::server

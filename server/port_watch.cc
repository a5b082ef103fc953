#include "server/port_watch.h"

#include <algorithm>
#include <utility>

namespace t2r::server {

PortWatch::PortWatch(std::function<bool()> answers, absl::Duration interval)
    : answers_(std::move(answers)), interval_(interval), thread_([this] { Run(); }) {}

PortWatch::~PortWatch() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void PortWatch::Run() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    lock.Unlock();
    alive_ = answers_();
    lock.Lock();
    const absl::Duration pause = alive_ ? interval_ : std::min(interval_, absl::Seconds(1));
    const CondVar::Clock::time_point next =
        CondVar::Clock::now() + absl::ToChronoNanoseconds(pause);
    while (!stopping_ && changed_.WaitUntil(lock, next)) {
    }
  }
}

}  // namespace t2r::server

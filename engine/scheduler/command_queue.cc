#include "engine/scheduler/command_queue.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

// Exact to some milliseconds: the coarse clock costs a tenth of the exact one.
int64_t SteadyNanoseconds() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

absl::Status CommandQueue::AcceptingLocked() const {
  if (failed_) return absl::UnavailableError(failure_);
  if (draining_) return absl::UnavailableError("draining: the server is shutting down");
  return absl::OkStatus();
}

absl::Status CommandQueue::Accepting() const {
  const MutexLock lock(mu_);
  return AcceptingLocked();
}

absl::Status CommandQueue::health() const {
  const MutexLock lock(mu_);
  return failed_ ? absl::UnavailableError(failure_) : absl::OkStatus();
}

absl::Duration CommandQueue::Away() const {
  const int64_t since = away_since_.load();
  return since == 0 ? absl::ZeroDuration() : absl::Nanoseconds(SteadyNanoseconds() - since);
}

absl::StatusOr<RequestId> CommandQueue::Push(std::unique_ptr<Session> session) {
  const MutexLock lock(mu_);
  absl::Status accepting = AcceptingLocked();
  if (!accepting.ok()) return accepting;
  const RequestId id = next_id_++;
  session->set_id(id);
  submitted_.push_back(std::move(session));
  ++live_;
  changed_ = true;
  engine_.NotifyOne();
  return id;
}

void CommandQueue::Cancel(RequestId id) {
  const MutexLock lock(mu_);
  cancelled_.push_back(id);
  changed_ = true;
  engine_.NotifyOne();
}

void CommandQueue::Wake() {
  if (woken_.exchange(true)) return;
  // The engine thread either sees the flag before it sleeps or already waits for the signal.
  const MutexLock lock(mu_);
  engine_.NotifyOne();
}

void CommandQueue::Drain(absl::Time deadline) {
  const MutexLock lock(mu_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  changed_ = true;
  engine_.NotifyOne();
}

void CommandQueue::WaitUntilEmpty() {
  MutexLock lock(mu_);
  while (live_ != 0) empty_.Wait(lock);
}

void CommandQueue::Stop() {
  const MutexLock lock(mu_);
  stop_ = true;
  changed_ = true;
  engine_.NotifyOne();
}

void CommandQueue::Take(absl::Duration timeout, Commands* commands) {
  commands->submitted.clear();
  commands->cancelled.clear();
  if (timeout <= absl::ZeroDuration() && !changed_.load() && !woken_.load()) {
    away_since_.store(SteadyNanoseconds(), std::memory_order_relaxed);
    return;
  }
  MutexLock lock(mu_);
  if (timeout > absl::ZeroDuration()) {
    away_since_ = 0;
    // Returning early is harmless, and a bounded wait cannot overflow the clock.
    const CondVar::Clock::time_point end =
        CondVar::Clock::now() + absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(1)));
    bool in_time = true;
    while (in_time && !changed_ && !woken_.load()) in_time = engine_.WaitUntil(lock, end);
  }
  // Whatever a Wake announced happened before this exchange, or sets the flag again.
  woken_.exchange(false);
  changed_ = false;
  commands->submitted.swap(submitted_);
  commands->cancelled.swap(cancelled_);
  commands->drain_deadline = drain_deadline_;
  commands->stop = stop_;
  away_since_ = SteadyNanoseconds();
}

void CommandQueue::Retire(int64_t count) {
  const MutexLock lock(mu_);
  live_ -= count;
  if (live_ == 0) empty_.NotifyAll();
}

void CommandQueue::Fail(const std::string& why) {
  const MutexLock lock(mu_);
  failed_ = true;
  failure_ = absl::StrCat("the device failed: ", why, "; the server must be restarted");
}

}  // namespace t2r

#include "engine/scheduler/command_queue.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

int64_t SteadyNanoseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

absl::Status CommandQueue::AcceptingLocked() const {
  if (failed_) return absl::UnavailableError(failure_);
  if (draining_) return absl::UnavailableError("draining: the server is shutting down");
  return absl::OkStatus();
}

absl::Status CommandQueue::Accepting() const {
  const std::lock_guard lock(mu_);
  return AcceptingLocked();
}

absl::Status CommandQueue::health() const {
  const std::lock_guard lock(mu_);
  return failed_ ? absl::UnavailableError(failure_) : absl::OkStatus();
}

absl::Duration CommandQueue::Away() const {
  const int64_t since = away_since_.load();
  return since == 0 ? absl::ZeroDuration() : absl::Nanoseconds(SteadyNanoseconds() - since);
}

absl::StatusOr<RequestId> CommandQueue::Push(std::unique_ptr<Session> session) {
  const std::lock_guard lock(mu_);
  absl::Status accepting = AcceptingLocked();
  if (!accepting.ok()) return accepting;
  const RequestId id = next_id_++;
  session->set_id(id);
  submitted_.push_back(std::move(session));
  ++live_;
  changed_ = true;
  engine_.notify_one();
  return id;
}

void CommandQueue::Cancel(RequestId id) {
  const std::lock_guard lock(mu_);
  cancelled_.push_back(id);
  changed_ = true;
  engine_.notify_one();
}

void CommandQueue::Wake() {
  if (woken_.exchange(true)) return;
  // The engine thread either sees the flag before it sleeps or already waits for the signal.
  const std::lock_guard lock(mu_);
  engine_.notify_one();
}

void CommandQueue::Drain(absl::Time deadline) {
  const std::lock_guard lock(mu_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  changed_ = true;
  engine_.notify_one();
}

void CommandQueue::WaitUntilEmpty() {
  std::unique_lock lock(mu_);
  empty_.wait(lock, [this] { return live_ == 0; });
}

void CommandQueue::Stop() {
  const std::lock_guard lock(mu_);
  stop_ = true;
  changed_ = true;
  engine_.notify_one();
}

void CommandQueue::Take(absl::Duration timeout, Commands* commands) {
  away_since_ = 0;
  commands->submitted.clear();
  commands->cancelled.clear();
  std::unique_lock lock(mu_);
  const auto ready = [this] { return changed_ || woken_.load(); };
  if (timeout == absl::InfiniteDuration()) {
    engine_.wait(lock, ready);
  } else if (timeout > absl::ZeroDuration()) {
    // Waking early is harmless, and a bounded wait cannot overflow the clock.
    engine_.wait_for(lock, absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(1))), ready);
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
  const std::lock_guard lock(mu_);
  live_ -= count;
  if (live_ == 0) empty_.notify_all();
}

void CommandQueue::Fail(const std::string& why) {
  const std::lock_guard lock(mu_);
  failed_ = true;
  failure_ = absl::StrCat("the device failed: ", why, "; the server must be restarted");
}

}  // namespace t2r

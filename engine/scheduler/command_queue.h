// How other threads talk to the engine thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"
#include "engine/scheduler/request.h"
#include "engine/scheduler/session.h"

namespace t2r {

// Many producers, one consumer (the engine thread, which sleeps in Take). Knows how many accepted
// requests have not ended yet.
class CommandQueue {
 public:
  struct Commands {
    std::vector<std::unique_ptr<Session>> submitted;  // in order of their ids
    std::vector<RequestId> cancelled;                 // to be handled after `submitted`
    absl::Time drain_deadline = absl::InfiniteFuture();
    bool stop = false;  // nothing will be submitted any more
  };

  // ---- Any thread ----
  // OK, or UNAVAILABLE with the reason why nothing is accepted.
  absl::Status Accepting() const;
  // Numbers the session and queues it. UNAVAILABLE as Accepting().
  absl::StatusOr<RequestId> Push(std::unique_ptr<Session> session);
  void Cancel(RequestId id);
  void Wake();
  // Nothing is accepted from here on; the engine ends what is left at the deadline.
  void Drain(absl::Time deadline);
  // Until every accepted request has ended. Not from the engine thread.
  void WaitUntilEmpty();
  // After Drain: the engine thread may end once nothing is left.
  void Stop();
  // The device failure, if there was one.
  absl::Status health() const;
  // How long the engine thread has been away since its last Take, to some milliseconds; zero while
  // it sleeps in one.
  absl::Duration Away() const;

  // ---- The engine thread ----
  // Moves out what came in; sleeps first while there is nothing, at most `timeout`. commands: what
  // the last Take filled; where nothing came its deadline and stop are kept.
  void Take(absl::Duration timeout, Commands* commands);
  // `count` accepted requests have ended and their sinks are let go.
  void Retire(int64_t count);
  // Nothing is accepted from here on.
  void Fail(const std::string& why);

 private:
  absl::Status AcceptingLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable Mutex mu_;
  CondVar engine_;
  CondVar empty_;
  // Set by Wake without the lock unless it is the first since the last Take.
  std::atomic<bool> woken_{false};
  // When the last Take ended, on the steady clock, in nanoseconds; 0 while the engine sleeps in
  // Take, and before the first.
  std::atomic<int64_t> away_since_{0};
  // Any of the fields below, for the engine thread. Written under the lock.
  std::atomic<bool> changed_{false};
  std::vector<std::unique_ptr<Session>> submitted_ ABSL_GUARDED_BY(mu_);
  std::vector<RequestId> cancelled_ ABSL_GUARDED_BY(mu_);
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  // Statuses are made anew from strings, not copied, so that threads share no reference count.
  bool failed_ ABSL_GUARDED_BY(mu_) = false;
  std::string failure_ ABSL_GUARDED_BY(mu_);
  RequestId next_id_ ABSL_GUARDED_BY(mu_) = 1;
  int64_t live_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace t2r

// Whether a client takes what waits for it fast enough.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace t2r {

// A client has `limit` of credit. Time during which it leaves no room is spent from it; every byte
// that it takes earns 1 / min_rate seconds, never beyond the limit. Without a rate any byte, and
// any room, fills the credit up. A client has stalled when nothing is left: one that takes nothing
// after `limit`, one that drips below the rate after a few of them. Not thread-safe.
class StallMeter {
 public:
  // limit: zero or less never stalls. min_rate: bytes a second; 0: any progress will do.
  explicit StallMeter(absl::Duration limit = absl::ZeroDuration(), int64_t min_rate = 0)
      : limit_(limit), min_rate_(min_rate), credit_(limit) {}

  // What is seen now: whether there is room, and all the bytes that the client has ever taken.
  void Update(bool room, int64_t taken, absl::Time now) {
    const int64_t gained = taken - taken_;
    taken_ = taken;
    if (blocked_ ? !room && gained == 0 : room && credit_ == limit_) return;  // nothing changes
    if (blocked_) credit_ = deadline_ - now;
    if (min_rate_ > 0) {
      credit_ += Earned(gained);
    } else if (room || gained > 0) {
      credit_ = limit_;
    }
    credit_ = std::min(credit_, limit_);
    blocked_ = !room;
    deadline_ = room ? absl::InfiniteFuture() : now + credit_;
  }
  // When the client will have stalled if it takes no more; InfiniteFuture while it has room.
  absl::Time deadline() const {
    return limit_ <= absl::ZeroDuration() ? absl::InfiniteFuture() : deadline_;
  }

 private:
  absl::Duration Earned(int64_t bytes) const {
    constexpr double kMost = 9e18;  // nanoseconds: three centuries
    const double time = static_cast<double>(bytes) * 1e9 / static_cast<double>(min_rate_);
    return absl::Nanoseconds(static_cast<int64_t>(std::min(time, kMost)));
  }

  absl::Duration limit_;
  int64_t min_rate_;
  absl::Duration credit_;  // while it is blocked, as it was when that last changed
  int64_t taken_ = 0;
  bool blocked_ = false;  // the last Update found no room
  absl::Time deadline_ = absl::InfiniteFuture();
};

}  // namespace t2r

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
    if (room && blocked_at_ == absl::InfiniteFuture() && credit_ == limit_) {
      taken_ = taken;  // no credit can be lost or gained
      return;
    }
    if (blocked_at_ != absl::InfiniteFuture()) credit_ -= now - blocked_at_;
    const int64_t gained = taken - taken_;
    taken_ = taken;
    if (min_rate_ > 0) {
      credit_ += absl::Seconds(static_cast<double>(gained) / static_cast<double>(min_rate_));
    } else if (room || gained > 0) {
      credit_ = limit_;
    }
    credit_ = std::min(credit_, limit_);
    blocked_at_ = room ? absl::InfiniteFuture() : now;
  }
  // When the client will have stalled if it takes no more; InfiniteFuture while it has room.
  absl::Time deadline() const {
    if (limit_ <= absl::ZeroDuration()) return absl::InfiniteFuture();
    return blocked_at_ + credit_;
  }

 private:
  absl::Duration limit_;
  int64_t min_rate_;
  absl::Duration credit_;
  int64_t taken_ = 0;
  absl::Time blocked_at_ = absl::InfiniteFuture();  // the last Update, if it found no room
};

}  // namespace t2r

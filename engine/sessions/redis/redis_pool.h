// Connections to a Redis server, shared by threads.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"
#include "engine/sessions/redis/redis_connection.h"

namespace t2r {

// Thread-safe. Connects when it is first needed. After a connection that was refused, or an answer
// that did not come in time, calls fail at once; one at a time tries again, after a pause that
// doubles from 50 ms up to 1 s. UNAVAILABLE names the address and what was tried.
class RedisPool {
 public:
  explicit RedisPool(RedisOptions options) : options_(std::move(options)) {}

  // A command that may safely come twice: one that a connection that had been idle did not take is
  // sent again over a new one. Waits for a connection where all are in use.
  absl::StatusOr<RedisReply> Call(const std::vector<std::string_view>& command);

 private:
  // Of a call: an idle connection, or null where a new one is to be made; either counts as in use.
  struct Taken {
    std::unique_ptr<RedisConnection> connection;
    bool tries = false;  // whether a pause is over
  };
  absl::StatusOr<Taken> Take();
  // away: why a pause begins; OK: none does.
  void GiveBack(Taken taken, const absl::Status& away);
  absl::Status Explain(const absl::Status& why) const;

  const RedisOptions options_;
  Mutex mutex_;
  CondVar returned_;
  std::vector<std::unique_ptr<RedisConnection>> idle_ ABSL_GUARDED_BY(mutex_);
  int used_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();  // zero: all is well
  absl::Time next_try_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool trying_ ABSL_GUARDED_BY(mutex_) = false;  // a call does, whether a pause is over
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace t2r

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

// Thread-safe. Connects when it is first needed, and after a failure not before a pause, which
// doubles from 50 ms up to 1 s: until then calls fail at once. UNAVAILABLE names the address and
// what was tried.
class RedisPool {
 public:
  explicit RedisPool(RedisOptions options) : options_(std::move(options)) {}

  // A command that may safely come twice: one that a connection that had been idle did not take is
  // sent again over a new one. Waits for a connection where all are in use.
  absl::StatusOr<RedisReply> Call(const std::vector<std::string_view>& command);

 private:
  // An idle connection, or null where a new one is to be made; either counts as in use.
  absl::StatusOr<std::unique_ptr<RedisConnection>> Take();
  // Makes one, and keeps account of failures.
  absl::StatusOr<std::unique_ptr<RedisConnection>> Connect();
  void GiveBack(std::unique_ptr<RedisConnection> connection);
  absl::Status Explain(const absl::Status& why) const;

  const RedisOptions options_;
  Mutex mutex_;
  CondVar returned_;
  std::vector<std::unique_ptr<RedisConnection>> idle_ ABSL_GUARDED_BY(mutex_);
  int used_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  absl::Time next_try_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace t2r

#include "engine/sessions/redis/redis_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace t2r {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(50);
constexpr absl::Duration kLongestPause = absl::Seconds(1);

}  // namespace

absl::Status RedisPool::Explain(const absl::Status& why) const {
  return absl::UnavailableError(
      absl::StrCat("--session-store ", options_.address.text(), ": ", why.message()));
}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisPool::Take() {
  const CondVar::Clock::time_point deadline =
      CondVar::Clock::now() + absl::ToChronoMilliseconds(options_.timeout);
  MutexLock lock(mutex_);
  while (used_ >= options_.max_connections) {
    if (!returned_.WaitUntil(lock, deadline)) {
      return absl::UnavailableError(
          absl::StrCat("all ", options_.max_connections, " connections are in use"));
    }
  }
  ++used_;
  if (idle_.empty()) return std::unique_ptr<RedisConnection>();
  std::unique_ptr<RedisConnection> connection = std::move(idle_.back());
  idle_.pop_back();
  return connection;
}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisPool::Connect() {
  {
    const MutexLock lock(mutex_);
    if (absl::Now() < next_try_) {
      return absl::UnavailableError(absl::StrCat(
          last_failure_.message(), "; it is tried again within ", absl::FormatDuration(pause_)));
    }
  }
  absl::StatusOr<std::unique_ptr<RedisConnection>> made = RedisConnection::Open(options_);
  const MutexLock lock(mutex_);
  if (made.ok()) {
    pause_ = absl::ZeroDuration();
    return made;
  }
  pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
  next_try_ = absl::Now() + pause_;
  last_failure_ = made.status();
  return made;
}

void RedisPool::GiveBack(std::unique_ptr<RedisConnection> connection) {
  const MutexLock lock(mutex_);
  --used_;
  if (connection != nullptr) idle_.push_back(std::move(connection));
  returned_.NotifyOne();
}

absl::StatusOr<RedisReply> RedisPool::Call(const std::vector<std::string_view>& command) {
  absl::StatusOr<std::unique_ptr<RedisConnection>> taken = Take();
  if (!taken.ok()) return Explain(taken.status());
  std::unique_ptr<RedisConnection> connection = *std::move(taken);
  if (connection != nullptr) {
    absl::StatusOr<RedisReply> reply = connection->Call(command);
    if (reply.ok()) {
      GiveBack(std::move(connection));
      return reply;
    }
    // Likely the server was started anew, and the other idle ones are of no use either.
    connection.reset();
    const MutexLock lock(mutex_);
    idle_.clear();
  }
  absl::StatusOr<std::unique_ptr<RedisConnection>> made = Connect();
  if (!made.ok()) {
    GiveBack(nullptr);
    return Explain(made.status());
  }
  absl::StatusOr<RedisReply> reply = (*made)->Call(command);
  GiveBack(reply.ok() ? *std::move(made) : nullptr);
  return reply.ok() ? std::move(reply) : Explain(reply.status());
}

}  // namespace t2r

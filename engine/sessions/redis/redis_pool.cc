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

absl::StatusOr<RedisPool::Taken> RedisPool::Take() {
  const CondVar::Clock::time_point deadline =
      CondVar::Clock::now() + absl::ToChronoMilliseconds(options_.timeout);
  MutexLock lock(mutex_);
  while (used_ >= options_.max_connections && pause_ == absl::ZeroDuration()) {
    if (!returned_.WaitUntil(lock, deadline)) {
      return absl::UnavailableError(
          absl::StrCat("all ", options_.max_connections, " connections are in use"));
    }
  }
  Taken taken;
  if (pause_ > absl::ZeroDuration()) {
    if (trying_ || absl::Now() < next_try_) {
      return absl::UnavailableError(absl::StrCat(
          last_failure_.message(), "; it is tried again within ", absl::FormatDuration(pause_)));
    }
    taken.tries = trying_ = true;
  }
  ++used_;
  if (!idle_.empty()) {
    taken.connection = std::move(idle_.back());
    idle_.pop_back();
  }
  return taken;
}

void RedisPool::GiveBack(Taken taken, const absl::Status& away) {
  const MutexLock lock(mutex_);
  --used_;
  if (taken.tries) trying_ = false;
  if (!away.ok()) {
    idle_.clear();
    pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
    next_try_ = absl::Now() + pause_;
    last_failure_ = away;
    returned_.NotifyAll();
    return;
  }
  if (taken.connection != nullptr) {
    pause_ = absl::ZeroDuration();
    idle_.push_back(std::move(taken.connection));
  }
  returned_.NotifyOne();
}

absl::StatusOr<RedisReply> RedisPool::Call(const std::vector<std::string_view>& command) {
  absl::StatusOr<Taken> taken = Take();
  if (!taken.ok()) return Explain(taken.status());
  std::unique_ptr<RedisConnection>& connection = taken->connection;
  absl::StatusOr<RedisReply> reply = absl::UnavailableError("not connected");
  if (connection != nullptr) {
    reply = connection->Call(command);
    if (!reply.ok()) {
      // Likely the server was started anew, and the other idle ones are of no use either.
      connection.reset();
      const MutexLock lock(mutex_);
      idle_.clear();
    }
  }
  absl::Status away;
  if (connection == nullptr && !absl::IsDeadlineExceeded(reply.status())) {
    absl::StatusOr<std::unique_ptr<RedisConnection>> made = RedisConnection::Open(options_);
    if (made.ok()) {
      connection = *std::move(made);
      reply = connection->Call(command);
    } else {
      reply = away = made.status();
    }
  }
  if (!reply.ok()) connection.reset();
  if (absl::IsDeadlineExceeded(reply.status())) away = reply.status();
  GiveBack(*std::move(taken), away);
  return reply.ok() ? std::move(reply) : Explain(reply.status());
}

}  // namespace t2r

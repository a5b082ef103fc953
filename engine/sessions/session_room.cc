// How much of SessionStore's memory, and of owners' quotas, is left.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "engine/sessions/session_store.h"

namespace t2r {
namespace {

// What a state of so many positions takes at most; INT64_MAX where that is beyond 64 bits.
int64_t MaxBytes(const ExecutorLimits& limits, int64_t positions) {
  const int64_t history = std::min<int64_t>(limits.vocab_size, positions);
  const int64_t source = limits.max_source + kKvPageSize;
  const int64_t fixed = kSessionEntryBytes + static_cast<int64_t>(sizeof(SessionState)) +
                        limits.state_bytes + source * limits.source_kv_bytes_per_position +
                        history * static_cast<int64_t>(sizeof(TokenAdjustment));
  int64_t bytes = 0;
  if (__builtin_add_overflow(positions, int64_t{kKvPageSize}, &bytes) ||
      __builtin_mul_overflow(bytes, limits.kv_bytes_per_position, &bytes) ||
      __builtin_add_overflow(bytes, fixed, &bytes)) {
    return INT64_MAX;
  }
  return bytes;
}

}  // namespace

absl::Status SessionStore::Reserve(int64_t bytes) {
  if (bytes > options_.memory_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("sessions of ", bytes, " bytes are asked for, and all of them together have ",
                     options_.memory_bytes, " (--session-memory-mib)"));
  }
  const MutexLock lock(mutex_);
  int64_t wanted = 0;
  bool fits = !__builtin_add_overflow(reserved_, bytes, &wanted);
  if (memory_only()) {
    fits = fits && memory_->Fits(wanted);
  } else {
    fits = fits && wanted <= options_.memory_bytes;
    if (fits) cache_.Shrink(options_.memory_bytes - wanted);
  }
  if (fits) {
    reserved_ = wanted;
    return absl::OkStatus();
  }
  const int64_t used = reserved_ + (memory_only() ? memory_->bytes() : cache_.bytes());
  return absl::ResourceExhaustedError(
      absl::StrCat("sessions have ", used, " bytes and ", bytes, " more are needed, the limit is ",
                   options_.memory_bytes,
                   " (--session-memory-mib); delete some, or try again when some have expired"));
}

void SessionStore::Unreserve(int64_t bytes) {
  const MutexLock lock(mutex_);
  reserved_ -= bytes;
}

void SessionStore::Keep(StateName name, std::shared_ptr<const SessionState> state) {
  if (memory_only() || name == 0 || state == nullptr) return;
  const MutexLock lock(mutex_);
  const int64_t limit = options_.memory_bytes - reserved_;
  if (BytesOf(state) > limit) return;
  cache_.Shrink(limit - BytesOf(state));
  cache_.Put(name, std::move(state));
}

absl::Status SessionStore::CheckQuota(const SessionOwner& owner, int64_t sessions, int64_t bytes,
                                      const SessionUsage& others) {
  const SessionQuota& quota = owner.quota;
  if (quota.max_sessions == 0 && quota.max_bytes == 0) return absl::OkStatus();
  if ((quota.max_sessions > 0 && sessions > quota.max_sessions) ||
      (quota.max_bytes > 0 && bytes > quota.max_bytes)) {
    return absl::FailedPreconditionError(absl::StrCat(
        sessions, " sessions of ", bytes, " bytes are asked for; the quota is ", quota.max_sessions,
        " sessions and ", quota.max_bytes, " bytes (0: any number)"));
  }
  absl::StatusOr<SessionUsage> usage = tier_->Usage(owner.name);
  if (!usage.ok()) return usage.status();
  usage->sessions += others.sessions;
  usage->bytes += others.bytes;
  if (quota.max_sessions > 0 && sessions > quota.max_sessions - usage->sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", usage->sessions, " sessions and ", sessions,
                     " more are asked for, the quota is ", quota.max_sessions,
                     "; delete some, or try again when some have expired"));
  }
  if (quota.max_bytes > 0 && bytes > quota.max_bytes - usage->bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "sessions have ", usage->bytes, " bytes and ", bytes, " more are needed, the quota is ",
        quota.max_bytes, "; delete some, or try again when some have expired"));
  }
  return absl::OkStatus();
}

SessionUsage SessionStore::BeingMade(const SessionOwner& owner, int64_t sessions, int64_t bytes) {
  const MutexLock lock(mutex_);
  const auto [made, first] = being_made_.try_emplace(owner.name);
  const SessionUsage others = made->second;
  made->second.sessions += sessions;
  made->second.bytes += bytes;
  if (made->second.sessions == 0) being_made_.erase(made);
  return others;
}

absl::Status SessionStore::ReserveFor(Live& live, int64_t positions) {
  const int64_t needed = MaxBytes(codec_.limits, positions);
  int64_t has = 0;
  {
    const MutexLock lock(live.mutex);
    if (memory_only()) has = live.record.info.bytes;
  }
  const int64_t more = std::max<int64_t>(0, needed - has) - live.reserved;
  if (more <= 0) return absl::OkStatus();
  if (live.owner.quota.max_bytes > 0) {
    if (absl::Status status = CheckQuota(live.owner, 0, more, {}); !status.ok()) return status;
  }
  absl::Status status = Reserve(more);
  if (status.ok()) live.reserved += more;
  return status;
}

int64_t SessionStore::max_snapshot_bytes() const {
  return MaxSnapshotBytes(codec_.limits, codec_.limits.max_positions());
}

}  // namespace t2r

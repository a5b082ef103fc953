// How SessionStore begins turns, follows and ends them.
#include "absl/strings/str_cat.h"
#include "engine/sessions/session_errors.h"
#include "engine/sessions/session_ids.h"
#include "engine/sessions/session_store.h"

namespace t2r {
namespace {

absl::Status Elsewhere(const std::string& id, int64_t position, int64_t expected) {
  return absl::AbortedError(absl::StrCat("session ", id, " is at position ", position,
                                         ", and position ", expected, " was expected"));
}

}  // namespace

absl::StatusOr<SessionStore::LivePtr> SessionStore::Hold(const SessionKey& key, bool take_over) {
  auto live = std::make_shared<Live>();
  live->claim.key = key;
  std::function<void()> cut;
  {
    const MutexLock lock(mutex_);
    const auto [held, free] = live_.emplace(key, live);
    if (free) return live;
    if (take_over) cut = held->second->cut;
  }
  if (cut) cut();
  return SessionBusy(key);
}

void SessionStore::LetGo(const SessionKey& key) {
  const MutexLock lock(mutex_);
  live_.erase(key);
}

absl::StatusOr<SessionTier::Claimed> SessionStore::ClaimOrCreate(const TurnRequest& request,
                                                                 const SessionKey& key) {
  const bool take_over = request.resume_at.has_value();
  absl::StatusOr<SessionTier::Claimed> claimed = tier_->Claim(key, take_over);
  if (!absl::IsNotFound(claimed.status()) || !request.create || take_over) return claimed;
  const int64_t expected = request.expected_position.value_or(0);
  if (expected != 0) return Elsewhere(key.id, 0, expected);
  const absl::Status made = Create(key.id, request.ttl, request.owner).status();
  // Another server may have made it meanwhile.
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  return tier_->Claim(key, false);
}

absl::StatusOr<StateName> SessionStore::Origin(const TurnRequest& request,
                                               const SessionRecord& record) const {
  const std::string& id = record.info.id;
  const int64_t position = record.info.position;
  if (!request.resume_at) {
    if (!request.expected_position || *request.expected_position == position) return record.state;
    return Elsewhere(id, position, *request.expected_position);
  }
  if (!record.turn) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id, " has had no turn that could be gone on with"));
  }
  const TurnParameters& turn = *record.turn;
  const int64_t at = *request.resume_at;
  const int64_t end = record.turn_over ? position : turn.begin() + turn.max_tokens;
  if (at < turn.start || at > end) {
    return absl::AbortedError(absl::StrCat("session ", id, " had its last turn from position ",
                                           turn.start, " to ", end, ", and resume_at is ", at));
  }
  if (!record.turn_over) {
    StateName origin = record.state;
    for (const SessionRecord::Checkpoint& checkpoint : record.checkpoints) {
      if (checkpoint.position <= at) origin = checkpoint.name;
    }
    return origin;
  }
  if (record.before != 0 || turn.start == 0) return record.before;
  return absl::FailedPreconditionError(absl::StrCat(
      "session ", id, " is behind that turn, at position ", position,
      ", and what it began from is not kept any more: its rest cannot be given again"));
}

absl::StatusOr<SessionTurn> SessionStore::Begin(const TurnRequest& request) {
  if (absl::Status status = CheckSessionTtl(request.ttl); !status.ok()) return status;
  const bool made_up = request.id.empty() && request.create;
  const SessionKey key = {request.owner.name, made_up ? MakeUpSessionId() : request.id};
  if (absl::Status status = CheckSessionId(key.id); !status.ok()) return status;
  const absl::StatusOr<LivePtr> held = Hold(key, request.resume_at.has_value());
  if (!held.ok()) return held.status();
  Live& live = **held;
  const absl::StatusOr<SessionTier::Claimed> claimed = ClaimOrCreate(request, key);
  if (!claimed.ok()) {
    LetGo(key);
    return claimed.status();
  }
  absl::StatusOr<StateName> name = Origin(request, claimed->record);
  absl::Status status = name.status();
  if (status.ok()) {
    auto state = Load(key, *name, request.allow_inexact);
    status = state.status();
    if (status.ok()) live.state = *std::move(state);
  }
  if (status.ok() && !memory_only() && live.state != nullptr) {
    const int64_t bytes = BytesOf(live.state);
    {
      // Its bytes are the turn's from here on.
      const MutexLock lock(mutex_);
      cache_.Erase(*name);
    }
    status = Reserve(bytes);
    if (status.ok()) live.reserved = bytes;
  }
  if (!status.ok()) {
    static_cast<void>(tier_->Release(claimed->claim));
    LetGo(key);
    return status;
  }
  {
    const MutexLock lock(live.mutex);
    live.record = claimed->record;
  }
  live.owner = request.owner;
  live.ttl = request.ttl;
  live.name = *name;
  live.resumed = request.resume_at.has_value();
  live.resume_at = request.resume_at.value_or(0);
  {
    const MutexLock lock(mutex_);
    live.claim = claimed->claim;
  }
  return SessionTurn(this, *held);
}

absl::Status SessionStore::Start(Live& live, TurnParameters turn, int64_t positions) {
  if (absl::Status room = ReserveFor(live, positions); !room.ok()) return room;
  const MutexLock lock(live.mutex);
  if (live.resumed) {
    live.started = true;
    return absl::OkStatus();
  }
  SessionChange change;
  change.record = live.record;
  change.record.turn = std::move(turn);
  change.record.turn_over = false;
  change.record.before = 0;
  change.record.checkpoints.clear();
  UseSession(&change.record.info, absl::ZeroDuration(), Now());
  change.durable = false;
  absl::Status status = tier_->Change(live.claim, change);
  live.started = status.ok();
  if (status.ok()) live.record = std::move(change.record);
  return status;
}

absl::Status SessionStore::Checkpoint(Live& live, const std::shared_ptr<const SessionState>& state,
                                      bool park) {
  absl::Status status;
  bool released = false;
  {
    const MutexLock lock(live.mutex);
    const bool stored =
        !live.over && live.started && !live.record.turn_over && state != nullptr && !memory_only();
    if (stored) {
      SessionChange change;
      change.record = live.record;
      change.name = NewStateName();
      change.state = state;
      change.record.AddCheckpoint({change.name, state->position()});
      UseSession(&change.record.info, absl::ZeroDuration(), Now());
      change.release = park;
      change.durable = park;
      status = tier_->Change(live.claim, change);
      released = park && status.ok();
      if (status.ok()) live.record = std::move(change.record);
    }
  }
  if (park) End(live, !released, live.name, live.state);
  return status;
}

absl::Status SessionStore::Commit(Live& live, const std::shared_ptr<const SessionState>& state) {
  SessionChange change;
  change.release = true;
  absl::Status status;
  bool repeated = false;
  {
    const MutexLock lock(live.mutex);
    // A turn that was over has been given again, and left the same.
    repeated = live.resumed && live.record.turn_over;
    if (!repeated) {
      SessionRecord& record = change.record = live.record;
      change.name = NewStateName();
      change.state = state;
      record.checkpoints.clear();
      record.before = live.started ? record.state : 0;
      if (!live.started) record.turn.reset();
      record.turn_over = live.started;
      record.state = change.name;
      record.info.position = state->position();
      record.info.bytes = BytesOf(state);
      UseSession(&record.info, live.ttl, Now());
      status = tier_->Change(live.claim, change);
      if (status.ok()) live.record = record;
    }
  }
  if (repeated || !status.ok()) {
    End(live, /*release=*/true, live.name, live.state);
    return status;
  }
  End(live, /*release=*/false, change.name, state);
  if (mirror_ != nullptr) {
    change.record.turn.reset();
    change.record.before = 0;
    mirror_->Mirror(change.record, state);
  }
  return status;
}

void SessionStore::End(Live& live, bool release, StateName name,
                       std::shared_ptr<const SessionState> state) {
  {
    const MutexLock lock(live.mutex);
    live.over = true;
    // Where this fails the claim ends by itself, or with the process.
    if (release) static_cast<void>(tier_->Release(live.claim));
  }
  {
    const MutexLock lock(mutex_);
    reserved_ -= live.reserved;
    live.reserved = 0;
    live_.erase(live.claim.key);
  }
  Keep(name, std::move(state));
}

}  // namespace t2r

#include "engine/sessions/session_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "engine/sessions/redis/redis_tier.h"
#include "engine/sessions/session_errors.h"
#include "engine/sessions/session_ids.h"

namespace t2r {
namespace {

// How often a state is looked for whose session another call moves on meanwhile.
constexpr int kLooks = 5;
// Of an answer of the shared store: records and lists, which have no state.
constexpr int64_t kMaxRecordBytes = int64_t{16} << 20;
constexpr int64_t kMaxReplyBytes = int64_t{512} << 20;

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

absl::Status Elsewhere(const std::string& id, int64_t position, int64_t expected) {
  return absl::AbortedError(absl::StrCat("session ", id, " is at position ", position,
                                         ", and position ", expected, " was expected"));
}

void Use(SessionInfo* info, absl::Duration ttl, absl::Time now) {
  if (ttl > absl::ZeroDuration()) info->ttl = ttl;
  info->used = now;
  info->expires = now + info->ttl;
}

}  // namespace

SessionStore::SessionStore(const ExecutorLimits& limits, std::string exactness_class,
                           SessionStoreOptions options)
    : codec_{limits, std::move(exactness_class)}, options_(std::move(options)) {
  auto memory = std::make_unique<MemoryTier>(options_.memory_bytes, Clock());
  memory_ = memory.get();
  tier_ = std::move(memory);
}

SessionStore::~SessionStore() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    stop_.NotifyAll();
  }
  if (keeper_.joinable()) keeper_.join();
}

std::function<absl::Time()> SessionStore::Clock() const {
  return options_.clock ? options_.clock : [] { return absl::Now(); };
}

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Open(const ExecutorLimits& limits,
                                                                 std::string exactness_class,
                                                                 SessionStoreOptions options) {
  auto store =
      std::make_unique<SessionStore>(limits, std::move(exactness_class), std::move(options));
  const SessionStoreOptions& given = store->options_;
  const auto watched = [&given](std::unique_ptr<SessionTier> tier, const char* name) {
    if (given.observer == nullptr) return tier;
    return std::unique_ptr<SessionTier>(
        std::make_unique<WatchedTier>(std::move(tier), name, given.observer));
  };
  std::unique_ptr<DiskTier> disk;
  if (!given.directory.empty()) {
    absl::StatusOr<std::unique_ptr<DiskTier>> opened =
        DiskTier::Open(given.directory, store->codec_, store->Clock());
    if (!opened.ok()) return opened.status();
    disk = *std::move(opened);
    store->disk_ = disk.get();
    store->memory_ = nullptr;
  }
  if (given.shared) {
    RedisOptions redis;
    redis.address = *given.shared;
    redis.ca_file = given.shared_ca;
    redis.max_reply_bytes = static_cast<size_t>(
        std::clamp(store->max_snapshot_bytes(), kMaxRecordBytes, kMaxReplyBytes));
    store->memory_ = nullptr;
    store->mirror_ = std::move(disk);
    store->tier_ = watched(
        std::make_unique<RedisTier>(std::move(redis), store->codec_, given.lease), "shared");
    store->keeper_ = std::thread([at = store.get()] { at->KeepClaims(); });
  } else if (disk != nullptr) {
    store->tier_ = watched(std::move(disk), "disk");
  }
  return store;
}

// ---- Room ----

absl::Status SessionStore::Reserve(int64_t bytes) {
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

absl::Status SessionStore::CheckQuota(const SessionOwner& owner, int64_t sessions, int64_t bytes) {
  const SessionQuota& quota = owner.quota;
  if (quota.max_sessions == 0 && quota.max_bytes == 0) return absl::OkStatus();
  const absl::StatusOr<SessionUsage> usage = tier_->Usage(owner.name);
  if (!usage.ok()) return usage.status();
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

// ---- The service's calls ----

absl::StatusOr<std::vector<SessionInfo>> SessionStore::AddAll(
    const std::vector<std::string>& ids, absl::Duration ttl,
    const std::shared_ptr<const SessionState>& state, const SessionOwner& owner) {
  absl::Status status = CheckSessionTtl(ttl);
  const absl::Time now = Now();
  const StateName name = state == nullptr ? 0 : NewStateName();
  std::vector<SessionRecord> records;
  for (const std::string& id : ids) {
    SessionRecord& record = records.emplace_back();
    SessionInfo& info = record.info;
    info.owner = owner.name;
    info.id = id.empty() ? MakeUpSessionId() : id;
    if (status.ok()) status = CheckSessionId(info.id);
    info.position = state == nullptr ? 0 : state->position();
    info.bytes = BytesOf(state);
    info.created = now;
    Use(&info, ttl == absl::ZeroDuration() ? options_.ttl : ttl, now);
    record.state = name;
  }
  if (!status.ok()) return status;
  const int64_t bytes = BytesOf(state) * static_cast<int64_t>(ids.size());
  status = CheckQuota(owner, static_cast<int64_t>(ids.size()), bytes);
  if (!status.ok()) return status;
  const int64_t room = memory_only() ? bytes : 0;
  status = Reserve(room);
  if (!status.ok()) return status;
  // What is there already is told before what has no room, so ids come first.
  status = tier_->Create(records, state);
  Unreserve(room);
  if (!status.ok()) return status;
  Keep(name, state);
  std::vector<SessionInfo> made;
  made.reserve(records.size());
  for (SessionRecord& record : records) made.push_back(std::move(record.info));
  return made;
}

absl::StatusOr<SessionInfo> SessionStore::Create(const std::string& id, absl::Duration ttl,
                                                 const SessionOwner& owner) {
  const auto made = AddAll({id}, ttl, nullptr, owner);
  if (!made.ok()) return made.status();
  return made->front();
}

absl::StatusOr<SessionInfo> SessionStore::Get(const std::string& id, const SessionOwner& owner) {
  if (absl::Status status = CheckSessionId(id); !status.ok()) return status;
  absl::StatusOr<SessionRecord> record = tier_->Get({owner.name, id});
  if (!record.ok()) return record.status();
  return std::move(record->info);
}

absl::StatusOr<std::vector<SessionInfo>> SessionStore::List(const std::string& after, int64_t count,
                                                            const SessionOwner& owner) {
  return tier_->List(owner.name, after, count);
}

absl::StatusOr<std::shared_ptr<const SessionState>> SessionStore::Load(const SessionKey& key,
                                                                       StateName name,
                                                                       bool allow_inexact) {
  if (name == 0) return std::shared_ptr<const SessionState>();
  if (!memory_only()) {
    const MutexLock lock(mutex_);
    if (std::shared_ptr<const SessionState> state = cache_.Find(name)) return state;
  }
  if (mirror_ != nullptr) {
    const absl::StatusOr<SessionRecord> record = mirror_->Get(key);
    if (record.ok() && record->state == name) {
      auto state = mirror_->State(key, name, allow_inexact);
      if (state.ok()) return state;
    }
  }
  return tier_->State(key, name, allow_inexact);
}

absl::StatusOr<std::pair<SessionRecord, std::shared_ptr<const SessionState>>> SessionStore::Find(
    const SessionKey& key) {
  if (absl::Status status = CheckSessionId(key.id); !status.ok()) return status;
  absl::Status failed;
  StateName last = 0;
  for (int look = 0; look < kLooks; ++look) {
    absl::StatusOr<SessionRecord> record = tier_->Get(key);
    if (!record.ok()) return record.status();
    auto state = Load(key, record->state, /*allow_inexact=*/false);
    if (state.ok()) {
      Keep(record->state, *state);
      return std::pair(*std::move(record), *std::move(state));
    }
    failed = state.status();
    if (!absl::IsDataLoss(failed) || record->state == last) break;
    last = record->state;
  }
  return failed;
}

absl::StatusOr<std::vector<SessionInfo>> SessionStore::Fork(const std::string& id,
                                                            const std::string& new_id,
                                                            int64_t count,
                                                            const SessionOwner& owner) {
  if (count < 1 || count > kMaxForks) {
    return absl::InvalidArgumentError(
        absl::StrCat("count: ", count, "; it must be 1 to ", kMaxForks));
  }
  const auto found = Find({owner.name, id});
  if (!found.ok()) return found.status();
  std::vector<std::string> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(new_id.empty() || count == 1 ? new_id : absl::StrCat(new_id, "-", i + 1));
  }
  return AddAll(ids, found->first.info.ttl, found->second, owner);
}

absl::Status SessionStore::Delete(const std::string& id, const SessionOwner& owner) {
  if (absl::Status status = CheckSessionId(id); !status.ok()) return status;
  const SessionKey key = {owner.name, id};
  const absl::StatusOr<LivePtr> held = Hold(key);
  if (!held.ok()) return held.status();
  const absl::StatusOr<SessionTier::Claimed> claimed = tier_->Claim(key, /*take_over=*/false);
  absl::Status status = claimed.status();
  if (status.ok()) {
    status = tier_->Remove(claimed->claim);
    if (!status.ok()) static_cast<void>(tier_->Release(claimed->claim));
    if (mirror_ != nullptr) mirror_->Forget(key);
    const MutexLock lock(mutex_);
    cache_.Erase(claimed->record.state);
  }
  LetGo(key);
  return status;
}

absl::StatusOr<std::string> SessionStore::Export(const std::string& id, const SessionOwner& owner) {
  const auto found = Find({owner.name, id});
  if (!found.ok()) return found.status();
  if (found->second == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id, " has no tokens yet: there is nothing to export"));
  }
  return codec_.Write(*found->second);
}

absl::StatusOr<SessionInfo> SessionStore::Import(const std::string& id, absl::Duration ttl,
                                                 const std::string& snapshot, bool allow_inexact,
                                                 const SessionOwner& owner) {
  absl::StatusOr<std::shared_ptr<const SessionState>> read = codec_.Read(snapshot, allow_inexact);
  if (!read.ok()) return read.status();
  const auto made = AddAll({id}, ttl, *std::move(read), owner);
  if (!made.ok()) return made.status();
  return made->front();
}

int64_t SessionStore::max_snapshot_bytes() const {
  const ExecutorLimits& limits = codec_.limits;
  int64_t positions = limits.position_limit;
  if (limits.kv_pages > 0) {
    const int64_t cached = limits.kv_pages * kKvPageSize;
    positions = positions > 0 ? std::min(positions, cached) : cached;
  }
  return MaxSnapshotBytes(limits, positions);
}

// ---- Turns ----

absl::StatusOr<SessionStore::LivePtr> SessionStore::Hold(const SessionKey& key) {
  auto live = std::make_shared<Live>();
  live->claim.key = key;
  const MutexLock lock(mutex_);
  if (!live_.emplace(key, live).second) return SessionBusy(key);
  return live;
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
    return record.checkpoint != 0 && record.checkpoint_position <= at ? record.checkpoint
                                                                      : record.state;
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
  const absl::StatusOr<LivePtr> held = Hold(key);
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
    if (absl::Status status = CheckQuota(live.owner, 0, more); !status.ok()) return status;
  }
  absl::Status status = Reserve(more);
  if (status.ok()) live.reserved += more;
  return status;
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
  change.drop = {std::exchange(change.record.before, 0),
                 std::exchange(change.record.checkpoint, 0)};
  change.record.checkpoint_position = 0;
  Use(&change.record.info, absl::ZeroDuration(), Now());
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
      change.drop = {std::exchange(change.record.checkpoint, change.name)};
      change.record.checkpoint_position = state->position();
      Use(&change.record.info, absl::ZeroDuration(), Now());
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
      change.drop = {std::exchange(record.checkpoint, 0), record.before};
      record.checkpoint_position = 0;
      record.before = live.started ? record.state : 0;
      if (!live.started) {
        change.drop.push_back(record.state);
        record.turn.reset();
      }
      record.turn_over = live.started;
      record.state = change.name;
      record.info.position = state->position();
      record.info.bytes = BytesOf(state);
      Use(&record.info, live.ttl, Now());
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

void SessionStore::KeepClaims() {
  const absl::Duration pause =
      std::clamp(options_.lease / 3, absl::Milliseconds(1), absl::Seconds(5));
  const absl::Duration count_pause = absl::Seconds(5);
  absl::Time next_count = absl::InfinitePast();
  MutexLock lock(mutex_);
  while (!stopping_) {
    std::vector<SessionClaim> claims;
    for (const auto& [key, live] : live_) {
      if (live->claim.fence != 0) claims.push_back(live->claim);
    }
    lock.Unlock();
    for (const SessionClaim& claim : claims) {
      // One that another server has is told of when the turn ends.
      if (absl::IsUnavailable(tier_->Renew(claim))) break;
    }
    absl::StatusOr<SessionUsage> usage = absl::UnavailableError("");
    if (absl::Now() >= next_count) {
      usage = tier_->Total();
      next_count = absl::Now() + count_pause;
    }
    lock.Lock();
    if (usage.ok()) shared_usage_ = *usage;
    if (!stopping_) {
      stop_.WaitUntil(lock, CondVar::Clock::now() + absl::ToChronoMilliseconds(pause));
    }
  }
}

// ---- What there is ----

SessionUsage SessionStore::kept() const {
  if (options_.shared) {
    const MutexLock lock(mutex_);
    return shared_usage_;
  }
  return memory_only() ? in_memory() : on_disk();
}

SessionUsage SessionStore::in_memory() const {
  const MutexLock lock(mutex_);
  if (!memory_only()) return {cache_.size(), cache_.bytes() + reserved_};
  SessionUsage usage = memory_->Total().value_or(SessionUsage());
  usage.bytes += reserved_;
  return usage;
}

SessionUsage SessionStore::on_disk() const {
  if (disk_ == nullptr) return {};
  return disk_->Total().value_or(SessionUsage());
}

}  // namespace t2r

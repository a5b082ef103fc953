#include "engine/sessions/session_store.h"

#include <algorithm>
#include <random>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "engine/snapshot/snapshot.h"

namespace t2r {
namespace {

constexpr size_t kMaxIdBytes = 128;
// What a session takes beside its state: its entry, and its id twice.
constexpr int64_t kEntryBytes = 512;

bool MayStandInId(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-_.:").find(c) != std::string_view::npos;
}

absl::Status CheckId(const std::string& id) {
  if (!id.empty() && id.size() <= kMaxIdBytes && std::all_of(id.begin(), id.end(), MayStandInId)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("session.id: 1 to ", kMaxIdBytes, " letters, digits and \"-_.:\""));
}

absl::Status CheckTtl(absl::Duration ttl) {
  if (ttl >= absl::ZeroDuration() && ttl <= kMaxSessionTtl) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("session.ttl: ", absl::FormatDuration(ttl),
                                                 "; it must be above 0 and at most ",
                                                 absl::FormatDuration(kMaxSessionTtl)));
}

// Nobody guesses it.
std::string MakeUpId() {
  std::random_device device;
  std::string id;
  for (int i = 0; i < 4; ++i) {
    absl::StrAppend(&id, absl::Hex(uint32_t{device()}, absl::kZeroPad8));
  }
  return id;
}

int64_t BytesOf(const std::shared_ptr<const SessionState>& state) {
  return kEntryBytes + (state == nullptr ? 0 : state->bytes());
}

// What a state of so many positions takes at most; INT64_MAX where that is beyond 64 bits.
int64_t MaxBytes(const ExecutorLimits& limits, int64_t positions) {
  const int64_t history = std::min<int64_t>(limits.vocab_size, positions);
  const int64_t source = limits.max_source + kKvPageSize;
  const int64_t fixed = kEntryBytes + static_cast<int64_t>(sizeof(SessionState)) +
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

absl::Status Busy(const std::string& id) {
  return absl::AbortedError(
      absl::StrCat("session ", id, " is busy: a turn is running, and there is one at a time"));
}

}  // namespace

SessionStore::SessionStore(const ExecutorLimits& limits, std::string exactness_class,
                           SessionStoreOptions options)
    : limits_(limits), exactness_class_(std::move(exactness_class)), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Open(const ExecutorLimits& limits,
                                                                 std::string exactness_class,
                                                                 SessionStoreOptions options) {
  auto store =
      std::make_unique<SessionStore>(limits, std::move(exactness_class), std::move(options));
  if (store->options_.directory.empty()) return store;
  absl::StatusOr<std::unique_ptr<SessionDisk>> disk = SessionDisk::Open(store->options_.directory);
  if (!disk.ok()) return disk.status();
  store->disk_ = *std::move(disk);
  const MutexLock lock(store->mutex_);
  std::vector<SessionInfo> found;
  const absl::Status read =
      store->disk_->ForEach([&found](SessionInfo info) { found.push_back(std::move(info)); });
  if (!read.ok()) return read;
  for (SessionInfo& info : found) {
    store->expiries_.emplace(info.expires, info.id);
    store->bytes_ += kEntryBytes;
    std::string id = info.id;
    store->entries_[std::move(id)].info = std::move(info);
  }
  store->Purge(store->Now());
  return store;
}

void SessionStore::Purge(absl::Time now) {
  std::vector<std::string> gone;
  for (auto at = expiries_.begin(); at != expiries_.end() && at->first <= now;) {
    const auto entry = entries_.find(at->second);
    ++at;
    if (entry->second.busy) continue;
    gone.push_back(entry->first);
    Erase(entry);
  }
  if (disk_ == nullptr || gone.empty()) return;
  // What is not removed now is when the directory is next opened: its time has passed.
  static_cast<void>(disk_->Remove(gone, /*durable=*/false));
}

absl::StatusOr<SessionStore::Entries::iterator> SessionStore::Find(const std::string& id,
                                                                   absl::Time now) {
  Purge(now);
  const auto entry = entries_.find(id);
  if (entry != entries_.end()) return entry;
  if (absl::Status status = CheckId(id); !status.ok()) return status;
  return absl::NotFoundError(absl::StrCat("there is no session ", id, ", or it has expired"));
}

absl::Status SessionStore::MakeRoom(int64_t bytes) {
  for (auto at = resident_.begin();
       disk_ != nullptr && at != resident_.end() && bytes > options_.memory_bytes - bytes_;) {
    Entry& entry = entries_.at(at->second);
    ++at;
    if (!entry.busy) SetState(entry, nullptr);
  }
  if (bytes <= options_.memory_bytes - bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("sessions have ", bytes_, " bytes and ", bytes,
                   " more are needed, the limit is ", options_.memory_bytes,
                   " (--session-memory-mib); delete some, or try again when some have expired"));
}

absl::StatusOr<SessionStore::Entries::iterator> SessionStore::Add(
    std::string id, absl::Duration ttl, std::shared_ptr<const SessionState> state, absl::Time now) {
  Purge(now);
  if (id.empty()) id = MakeUpId();
  absl::Status status = CheckId(id);
  if (status.ok()) status = CheckTtl(ttl);
  if (status.ok() && entries_.count(id) > 0) {
    status = absl::AlreadyExistsError(absl::StrCat("there is a session ", id, " already"));
  }
  if (status.ok()) status = MakeRoom(BytesOf(state));
  if (!status.ok()) return status;
  Entry entry;
  entry.info.id = id;
  entry.info.position = state == nullptr ? 0 : state->position();
  entry.info.bytes = BytesOf(state);
  entry.info.created = now;
  entry.info.ttl = ttl == absl::ZeroDuration() ? options_.ttl : ttl;
  bytes_ += kEntryBytes;
  const auto added = entries_.emplace(id, std::move(entry)).first;
  Use(added->second, now);
  SetState(added->second, std::move(state));
  return added;
}

void SessionStore::SetState(Entry& entry, std::shared_ptr<const SessionState> state) {
  if (entry.state != nullptr) bytes_ -= entry.state->bytes();
  resident_.erase({entry.info.used, entry.info.id});
  entry.state = std::move(state);
  if (entry.state == nullptr) return;
  bytes_ += entry.state->bytes();
  resident_.emplace(entry.info.used, entry.info.id);
}

void SessionStore::Erase(Entries::iterator entry) {
  SetState(entry->second, nullptr);
  bytes_ -= kEntryBytes + entry->second.reserved;
  expiries_.erase({entry->second.info.expires, entry->first});
  entries_.erase(entry);
}

void SessionStore::Use(Entry& entry, absl::Time now) {
  expiries_.erase({entry.info.expires, entry.info.id});
  if (resident_.erase({entry.info.used, entry.info.id}) > 0) {
    resident_.emplace(now, entry.info.id);
  }
  entry.info.used = now;
  entry.info.expires = now + entry.info.ttl;
  expiries_.emplace(entry.info.expires, entry.info.id);
}

absl::StatusOr<std::vector<SessionInfo>> SessionStore::AddAll(
    const std::vector<std::string>& ids, absl::Duration ttl,
    const std::shared_ptr<const SessionState>& state) {
  const absl::Time now = Now();
  std::vector<SessionInfo> made;
  {
    const MutexLock lock(mutex_);
    for (const std::string& id : ids) {
      const auto added = Add(id, ttl, state, now);
      if (!added.ok()) {
        for (const SessionInfo& info : made) Erase(entries_.find(info.id));
        return added.status();
      }
      // Nobody else takes it before it is whole.
      (*added)->second.busy = true;
      made.push_back((*added)->second.info);
    }
  }
  absl::Status written;
  if (disk_ != nullptr) {
    written = disk_->Put(made, state == nullptr ? "" : WriteSnapshot(*state, exactness_class_));
  }
  const MutexLock lock(mutex_);
  for (const SessionInfo& info : made) {
    const auto entry = entries_.find(info.id);
    entry->second.busy = false;
    if (!written.ok()) Erase(entry);
  }
  if (!written.ok()) return written;
  return made;
}

absl::StatusOr<std::shared_ptr<const SessionState>> SessionStore::StateOf(const std::string& id,
                                                                          bool busy) {
  {
    const absl::Time now = Now();
    const MutexLock lock(mutex_);
    const auto found = Find(id, now);
    if (!found.ok()) return found.status();
    Entry& entry = (*found)->second;
    const bool here = entry.state != nullptr || entry.info.position == 0;
    if (entry.busy && (busy || !here)) return Busy(id);
    if (here) {
      entry.busy = entry.busy || busy;
      return entry.state;
    }
    entry.busy = true;
  }
  const absl::StatusOr<std::string> snapshot = disk_->Snapshot(id);
  absl::StatusOr<SessionState> read =
      snapshot.ok() ? ReadSnapshot(*snapshot, exactness_class_, limits_) : snapshot.status();
  absl::Status status = read.status();
  std::shared_ptr<const SessionState> state;
  if (status.ok()) state = std::make_shared<const SessionState>(*std::move(read));
  const MutexLock lock(mutex_);
  Entry& entry = entries_.at(id);
  if (status.ok()) status = MakeRoom(state->bytes());
  entry.busy = busy && status.ok();
  if (!status.ok()) return status;
  SetState(entry, state);
  return state;
}

absl::StatusOr<SessionInfo> SessionStore::Create(const std::string& id, absl::Duration ttl) {
  const auto made = AddAll({id}, ttl, nullptr);
  if (!made.ok()) return made.status();
  return made->front();
}

absl::StatusOr<SessionInfo> SessionStore::Get(const std::string& id) {
  const absl::Time now = Now();
  const MutexLock lock(mutex_);
  const auto entry = Find(id, now);
  if (!entry.ok()) return entry.status();
  return (*entry)->second.info;
}

std::vector<SessionInfo> SessionStore::List(const std::string& after, int64_t count) {
  const absl::Time now = Now();
  const MutexLock lock(mutex_);
  Purge(now);
  std::vector<SessionInfo> page;
  for (auto at = entries_.upper_bound(after);
       at != entries_.end() && static_cast<int64_t>(page.size()) < count; ++at) {
    page.push_back(at->second.info);
  }
  return page;
}

absl::StatusOr<std::vector<SessionInfo>> SessionStore::Fork(const std::string& id,
                                                            const std::string& new_id,
                                                            int64_t count) {
  if (count < 1 || count > kMaxForks) {
    return absl::InvalidArgumentError(
        absl::StrCat("count: ", count, "; it must be 1 to ", kMaxForks));
  }
  const absl::StatusOr<SessionInfo> info = Get(id);
  if (!info.ok()) return info.status();
  absl::StatusOr<std::shared_ptr<const SessionState>> state = StateOf(id, false);
  if (!state.ok()) return state.status();
  std::vector<std::string> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(new_id.empty() || count == 1 ? new_id : absl::StrCat(new_id, "-", i + 1));
  }
  return AddAll(ids, info->ttl, *std::move(state));
}

absl::Status SessionStore::Delete(const std::string& id) {
  {
    const absl::Time now = Now();
    const MutexLock lock(mutex_);
    const auto entry = Find(id, now);
    if (!entry.ok()) return entry.status();
    if ((*entry)->second.busy) return Busy(id);
    (*entry)->second.busy = true;
  }
  absl::Status removed =
      disk_ == nullptr ? absl::OkStatus() : disk_->Remove({id}, /*durable=*/true);
  const MutexLock lock(mutex_);
  const auto entry = entries_.find(id);
  entry->second.busy = false;
  if (removed.ok()) Erase(entry);
  return removed;
}

absl::StatusOr<std::string> SessionStore::Export(const std::string& id) {
  const auto state = StateOf(id, false);
  if (!state.ok()) return state.status();
  if (*state == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id, " has no tokens yet: there is nothing to export"));
  }
  return WriteSnapshot(**state, exactness_class_);
}

absl::StatusOr<SessionInfo> SessionStore::Import(const std::string& id, absl::Duration ttl,
                                                 const std::string& snapshot) {
  absl::StatusOr<SessionState> read = ReadSnapshot(snapshot, exactness_class_, limits_);
  if (!read.ok()) return read.status();
  const auto made = AddAll({id}, ttl, std::make_shared<const SessionState>(*std::move(read)));
  if (!made.ok()) return made.status();
  return made->front();
}

int64_t SessionStore::max_snapshot_bytes() const {
  int64_t positions = limits_.position_limit;
  if (limits_.kv_pages > 0) {
    const int64_t cached = limits_.kv_pages * kKvPageSize;
    positions = positions > 0 ? std::min(positions, cached) : cached;
  }
  return MaxSnapshotBytes(limits_, positions);
}

absl::StatusOr<SessionTurn> SessionStore::Begin(const TurnRequest& request) {
  if (absl::Status status = CheckTtl(request.ttl); !status.ok()) return status;
  const int64_t expected = request.expected_position.value_or(0);
  const auto elsewhere = [&](int64_t position) {
    return absl::AbortedError(absl::StrCat("session ", request.id, " is at position ", position,
                                           ", and position ", expected, " was expected"));
  };
  absl::StatusOr<SessionInfo> info = Get(request.id);
  if (absl::IsNotFound(info.status()) && request.create) {
    if (expected != 0) return elsewhere(0);
    info = Create(request.id, request.ttl);
    // Another turn may have made it meanwhile.
    if (absl::IsAlreadyExists(info.status())) info = Get(request.id);
  }
  if (!info.ok()) return info.status();
  absl::StatusOr<std::shared_ptr<const SessionState>> state = StateOf(request.id, true);
  if (!state.ok()) return state.status();
  SessionTurn turn(this, request.id, request.ttl, *std::move(state));
  if (!request.expected_position || expected == turn.position()) return turn;
  return elsewhere(turn.position());
}

absl::Status SessionStore::Reserve(const std::string& id, int64_t positions) {
  const int64_t needed = MaxBytes(limits_, positions);
  const absl::Time now = Now();
  const MutexLock lock(mutex_);
  Purge(now);
  Entry& entry = entries_.at(id);
  const int64_t more = std::max<int64_t>(0, needed - entry.info.bytes) - entry.reserved;
  if (more <= 0) return absl::OkStatus();
  if (absl::Status status = MakeRoom(more); !status.ok()) return status;
  entry.reserved += more;
  bytes_ += more;
  return absl::OkStatus();
}

absl::Status SessionStore::Commit(const std::string& id, absl::Duration ttl,
                                  std::shared_ptr<const SessionState> state) {
  const absl::Time now = Now();
  SessionInfo info;
  {
    const MutexLock lock(mutex_);
    info = entries_.at(id).info;
  }
  if (ttl > absl::ZeroDuration()) info.ttl = ttl;
  info.position = state->position();
  info.bytes = BytesOf(state);
  info.used = now;
  info.expires = now + info.ttl;
  absl::Status written;
  if (disk_ != nullptr) written = disk_->Put({info}, WriteSnapshot(*state, exactness_class_));
  const MutexLock lock(mutex_);
  Entry& entry = entries_.at(id);
  bytes_ -= entry.reserved;
  entry.reserved = 0;
  entry.busy = false;
  if (!written.ok()) return written;
  entry.info.ttl = info.ttl;
  Use(entry, now);
  entry.info.position = info.position;
  entry.info.bytes = info.bytes;
  SetState(entry, std::move(state));
  return absl::OkStatus();
}

void SessionStore::Release(const std::string& id) {
  const MutexLock lock(mutex_);
  Entry& entry = entries_.at(id);
  bytes_ -= entry.reserved;
  entry.reserved = 0;
  entry.busy = false;
}

int64_t SessionStore::sessions() const {
  const MutexLock lock(mutex_);
  return static_cast<int64_t>(entries_.size());
}

int64_t SessionStore::in_memory() const {
  const MutexLock lock(mutex_);
  return static_cast<int64_t>(disk_ == nullptr ? entries_.size() : resident_.size());
}

int64_t SessionStore::on_disk() const { return disk_ == nullptr ? 0 : sessions(); }

int64_t SessionStore::bytes() const {
  const MutexLock lock(mutex_);
  return bytes_;
}

}  // namespace t2r

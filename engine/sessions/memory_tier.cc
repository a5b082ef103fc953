#include "engine/sessions/memory_tier.h"

#include "engine/sessions/session_errors.h"

namespace t2r {

bool MemoryTier::Fits(int64_t more) {
  const MutexLock lock(mutex_);
  Purge();
  while (more > limit_ - bytes_ && !repeatable_.empty()) {
    Entry& entry = entries_.at(repeatable_.begin()->second);
    repeatable_.erase(repeatable_.begin());
    DropState(entry, entry.record.before);
    entry.record.before = 0;
  }
  return more <= limit_ - bytes_;
}

int64_t MemoryTier::bytes() const {
  const MutexLock lock(mutex_);
  return bytes_;
}

void MemoryTier::Purge() {
  const absl::Time now = clock_();
  for (auto at = expiries_.begin(); at != expiries_.end() && at->first <= now;) {
    const auto entry = entries_.find(at->second);
    ++at;
    if (entry->second.fence == 0) Erase(entry);
  }
}

void MemoryTier::Forget(const Entry& entry) {
  const SessionInfo& info = entry.record.info;
  expiries_.erase({info.expires, info.key()});
  repeatable_.erase({info.used, info.key()});
  if (entry.record.turn) bytes_ -= entry.record.turn->bytes();
  const auto usage = usage_.find(info.owner);
  usage->second.bytes -= info.bytes;
  if (--usage->second.sessions == 0) usage_.erase(usage);
}

void MemoryTier::Set(Entry& entry, const SessionRecord& record) {
  entry.record = record;
  const SessionInfo& info = entry.record.info;
  expiries_.emplace(info.expires, info.key());
  if (record.turn_over && record.before != 0) repeatable_.emplace(info.used, info.key());
  if (record.turn) bytes_ += record.turn->bytes();
  SessionUsage& usage = usage_[info.owner];
  ++usage.sessions;
  usage.bytes += info.bytes;
}

void MemoryTier::AddState(Entry& entry, StateName name, std::shared_ptr<const SessionState> state) {
  if (name == 0) return;
  bytes_ += state->bytes();
  entry.states.emplace(name, std::move(state));
}

void MemoryTier::DropState(Entry& entry, StateName name) {
  const auto state = entry.states.find(name);
  if (state == entry.states.end()) return;
  bytes_ -= state->second->bytes();
  entry.states.erase(state);
}

void MemoryTier::Erase(Entries::iterator entry) {
  Forget(entry->second);
  while (!entry->second.states.empty()) {
    DropState(entry->second, entry->second.states.begin()->first);
  }
  bytes_ -= kSessionEntryBytes;
  entries_.erase(entry);
}

absl::StatusOr<MemoryTier::Entries::iterator> MemoryTier::Held(const SessionClaim& claim) {
  const auto entry = entries_.find(claim.key);
  if (entry == entries_.end() || entry->second.fence != claim.fence) {
    return SessionFenced(claim.key);
  }
  return entry;
}

absl::Status MemoryTier::Create(const std::vector<SessionRecord>& records,
                                const std::shared_ptr<const SessionState>& state) {
  const MutexLock lock(mutex_);
  Purge();
  for (const SessionRecord& record : records) {
    if (entries_.count(record.info.key()) > 0) return SessionExists(record.info.key());
  }
  for (const SessionRecord& record : records) {
    Entry& entry = entries_[record.info.key()];
    bytes_ += kSessionEntryBytes;
    Set(entry, record);
    AddState(entry, record.state, state);
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionRecord> MemoryTier::Get(const SessionKey& key) {
  const MutexLock lock(mutex_);
  Purge();
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return NoSession(key);
  return entry->second.record;
}

absl::StatusOr<std::vector<SessionInfo>> MemoryTier::List(const std::string& owner,
                                                          const std::string& after, int64_t count) {
  const MutexLock lock(mutex_);
  Purge();
  std::vector<SessionInfo> page;
  for (auto at = entries_.upper_bound({owner, after});
       at != entries_.end() && at->first.owner == owner &&
       static_cast<int64_t>(page.size()) < count;
       ++at) {
    page.push_back(at->second.record.info);
  }
  return page;
}

absl::StatusOr<SessionTier::Claimed> MemoryTier::Claim(const SessionKey& key, bool /*take_over*/) {
  const MutexLock lock(mutex_);
  Purge();
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return NoSession(key);
  if (entry->second.fence != 0) return SessionBusy(key);
  entry->second.fence = ++last_fence_;
  return Claimed{{key, last_fence_}, entry->second.record};
}

absl::Status MemoryTier::Change(const SessionClaim& claim, const SessionChange& change) {
  const MutexLock lock(mutex_);
  const auto held = Held(claim);
  if (!held.ok()) return held.status();
  Entry& entry = (*held)->second;
  Forget(entry);
  for (const StateName name : DroppedStates(entry.record, change.record)) DropState(entry, name);
  AddState(entry, change.name, change.state);
  Set(entry, change.record);
  if (change.release) entry.fence = 0;
  return absl::OkStatus();
}

absl::Status MemoryTier::Release(const SessionClaim& claim) {
  const MutexLock lock(mutex_);
  const auto held = Held(claim);
  if (held.ok()) (*held)->second.fence = 0;
  return held.status();
}

absl::Status MemoryTier::Delete(const SessionKey& key) {
  const MutexLock lock(mutex_);
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return absl::OkStatus();
  if (entry->second.fence != 0) return SessionBusy(key);
  Erase(entry);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SessionState>> MemoryTier::State(const SessionKey& key,
                                                                      StateName name,
                                                                      bool /*allow_inexact*/) {
  const MutexLock lock(mutex_);
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return NoSession(key);
  const auto state = entry->second.states.find(name);
  if (state == entry->second.states.end()) return NoState(key);
  return state->second;
}

absl::StatusOr<SessionUsage> MemoryTier::Usage(const std::string& owner) {
  const MutexLock lock(mutex_);
  Purge();
  const auto usage = usage_.find(owner);
  return usage == usage_.end() ? SessionUsage() : usage->second;
}

absl::StatusOr<SessionUsage> MemoryTier::Total() {
  const MutexLock lock(mutex_);
  return SessionUsage{static_cast<int64_t>(entries_.size()), bytes_};
}

}  // namespace t2r

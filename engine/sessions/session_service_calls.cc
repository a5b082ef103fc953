// What SessionStore does for calls other than turns.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/sessions/session_ids.h"
#include "engine/sessions/session_store.h"

namespace t2r {
namespace {

// How often a state is looked for whose session another call moves on meanwhile.
constexpr int kLooks = 5;

}  // namespace

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
    UseSession(&info, ttl == absl::ZeroDuration() ? options_.ttl : ttl, now);
    record.state = name;
  }
  if (!status.ok()) return status;
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t bytes = BytesOf(state) * count;
  const int64_t room = memory_only() ? bytes : 0;
  status = CheckQuota(owner, count, bytes, BeingMade(owner, count, bytes));
  if (status.ok()) {
    status = Reserve(room);
    if (status.ok()) {
      status = tier_->Create(records, state);
      Unreserve(room);
    }
  }
  BeingMade(owner, -count, -bytes);
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
  const absl::StatusOr<LivePtr> held = Hold(key, /*take_over=*/false);
  if (!held.ok()) return held.status();
  const absl::StatusOr<SessionRecord> record = tier_->Get(key);
  // A record that cannot be read is there, and goes.
  absl::Status status = absl::IsDataLoss(record.status()) ? absl::OkStatus() : record.status();
  if (status.ok()) status = tier_->Delete(key);
  if (status.ok()) {
    if (mirror_ != nullptr) static_cast<void>(mirror_->Delete(key));
    const MutexLock lock(mutex_);
    if (record.ok()) cache_.Erase(record->state);
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

}  // namespace t2r

#include "engine/sessions/disk_records.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/sessions/disk_keys.h"
#include "engine/sessions/session_errors.h"

namespace t2r {
namespace {

// Sessions that one call removes.
constexpr size_t kPurgedAtOnce = 256;
// Until what could not be removed is looked at again.
constexpr absl::Duration kBusyPause = absl::Seconds(1);

std::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

}  // namespace

DiskRecords::DiskRecords(std::string directory, std::function<absl::Time()> clock)
    : clock_(std::move(clock)), database_(std::move(directory), [this] { return Recount(); }) {}

absl::StatusOr<SessionRecord> DiskRecords::Read(const SessionKey& key) const {
  const absl::StatusOr<std::optional<std::string>> bytes = database_.Get(disk::RecordKey(key));
  if (!bytes.ok()) return bytes.status();
  if (!bytes->has_value()) return NoSession(key);
  return DecodeRecord(key, **bytes);
}

absl::StatusOr<SessionRecord> DiskRecords::Find(const SessionKey& key) {
  absl::StatusOr<SessionRecord> record = Read(key);
  if (!record.ok() || !Expired(record->info)) return record;
  const MutexLock lock(mutex_);
  if (!Taken(key)) return NoSession(key);
  return record;
}

absl::Status DiskRecords::ForEach(
    const std::string& from, const std::string& prefix,
    const std::function<bool(absl::StatusOr<SessionRecord>)>& take) const {
  const std::unique_ptr<rocksdb::Iterator> at = database_.From(from);
  for (; at->Valid() && at->key().starts_with(prefix); at->Next()) {
    SessionKey key;
    if (!disk::FromRecordKey(View(at->key()), &key)) {
      return absl::DataLossError(
          absl::StrCat("--session-dir ", database_.directory(), ": has a key that no session has"));
    }
    if (!take(DecodeRecord(key, View(at->value())))) break;
  }
  return database_.StatusOf(*at);
}

absl::StatusOr<std::vector<SessionInfo>> DiskRecords::List(const std::string& owner,
                                                           const std::string& after,
                                                           int64_t count) {
  std::vector<SessionInfo> page;
  const std::string all = disk::RecordKey({owner, ""});
  // Nothing is between an id and itself with a zero byte.
  const std::string next = absl::StrCat(disk::RecordKey({owner, after}), std::string(1, '\0'));
  const absl::Status read =
      ForEach(after.empty() ? all : next, all, [&](absl::StatusOr<SessionRecord> record) {
        bool there = record.ok();
        if (there && Expired(record->info)) {
          const MutexLock lock(mutex_);
          there = Taken(record->info.key());
        }
        if (there) page.push_back(std::move(record->info));
        return static_cast<int64_t>(page.size()) < count;
      });
  if (!read.ok()) return read;
  return page;
}

void DiskRecords::Put(const SessionRecord* before, const SessionRecord& record,
                      rocksdb::WriteBatch* batch) {
  if (before != nullptr) batch->Delete(disk::ExpiryKey(before->info));
  batch->Put(disk::RecordKey(record.info.key()), EncodeRecord(record));
  batch->Put(disk::ExpiryKey(record.info), "");
}

void DiskRecords::Delete(const SessionKey& key, const SessionRecord* record,
                         rocksdb::WriteBatch* batch) const {
  batch->Delete(disk::RecordKey(key));
  if (record != nullptr) batch->Delete(disk::ExpiryKey(record->info));
  const std::string prefix = disk::StatesOf(key);
  const std::unique_ptr<rocksdb::Iterator> at = database_.From(prefix);
  for (; at->Valid() && at->key().starts_with(prefix); at->Next()) {
    if (at->key().size() == prefix.size() + disk::kNumberBytes) batch->Delete(at->key());
  }
}

void DiskRecords::Count(const SessionRecord* before, const SessionRecord* after) {
  const MutexLock lock(mutex_);
  if (before != nullptr) Add(before->info, -1);
  if (after != nullptr) Add(after->info, 1);
}

void DiskRecords::Add(const SessionInfo& info, int sign) {
  SessionUsage& usage = usages_[info.owner];
  usage.sessions += sign;
  usage.bytes += sign * info.bytes;
  total_.sessions += sign;
  total_.bytes += sign * info.bytes;
  if (usage.sessions == 0) usages_.erase(info.owner);
  if (sign < 0) return;
  next_purge_ = std::min(next_purge_, info.expires);
  first_expiry_ = std::min(first_expiry_, info.expires);
}

void DiskRecords::Expect(absl::Time expiry) {
  const MutexLock lock(mutex_);
  next_purge_ = std::min(next_purge_, expiry);
  first_expiry_ = std::min(first_expiry_, expiry);
}

absl::Status DiskRecords::Recount() {
  {
    const MutexLock lock(mutex_);
    usages_.clear();
    total_ = {};
    next_purge_ = first_expiry_ = absl::InfinitePast();
  }
  // A record that is damaged is told of when it is asked for.
  const std::string all(1, disk::kRecord);
  return ForEach(all, all, [this](absl::StatusOr<SessionRecord> record) {
    if (record.ok()) Count(nullptr, &*record);
    return true;
  });
}

void DiskRecords::Purge() {
  const absl::Time now = clock_();
  absl::Time from;
  {
    const MutexLock lock(mutex_);
    if (now < next_purge_) return;
    next_purge_ = absl::InfiniteFuture();
    from = std::exchange(first_expiry_, absl::InfiniteFuture());
  }
  rocksdb::WriteBatch batch;
  std::vector<SessionKey> taken;
  std::vector<SessionRecord> gone;
  absl::Time next = absl::InfiniteFuture();
  absl::Time first = absl::InfiniteFuture();
  const std::unique_ptr<rocksdb::Iterator> at = database_.From(disk::ExpiriesFrom(from));
  for (; at->Valid() && at->key()[0] == disk::kExpiry; at->Next()) {
    const disk::Expiry expiry = disk::FromExpiryKey(View(at->key()));
    if (expiry.time > now || taken.size() == kPurgedAtOnce) {
      next = std::min(next, expiry.time);
      first = std::min(first, expiry.time);
      break;
    }
    bool free = false;
    if (expiry.known) {
      const MutexLock lock(mutex_);
      free = claims_.emplace(expiry.key, 0).second;
    }
    if (!free) {
      next = std::min(next, now + kBusyPause);
      first = std::min(first, expiry.time);
      continue;
    }
    taken.push_back(expiry.key);
    absl::StatusOr<SessionRecord> record = Read(expiry.key);
    batch.Delete(at->key());
    const bool due = !record.ok() || record->info.expires <= now;
    if (!due) continue;
    Delete(expiry.key, record.ok() ? &*record : nullptr, &batch);
    if (record.ok()) gone.push_back(*std::move(record));
  }
  if (taken.empty() || database_.Write(&batch, /*durable=*/false).ok()) {
    for (const SessionRecord& record : gone) Count(&record, nullptr);
  } else {
    next = std::min(next, now + kBusyPause);
    first = from;
  }
  const MutexLock lock(mutex_);
  for (const SessionKey& key : taken) claims_.erase(key);
  purged_.NotifyAll();
  next_purge_ = std::min(next_purge_, next);
  first_expiry_ = std::min(first_expiry_, first);
}

uint64_t DiskRecords::Take(const SessionKey& key) {
  MutexLock lock(mutex_);
  while (claims_.count(key) > 0 && !Taken(key)) purged_.Wait(lock);
  const auto [claim, free] = claims_.emplace(key, last_fence_ + 1);
  return free ? ++last_fence_ : 0;
}

bool DiskRecords::Taken(const SessionKey& key) const {
  const auto claim = claims_.find(key);
  return claim != claims_.end() && claim->second != 0;
}

void DiskRecords::Free(const SessionKey& key) {
  const MutexLock lock(mutex_);
  claims_.erase(key);
}

absl::Status DiskRecords::Held(const SessionClaim& claim) {
  const MutexLock lock(mutex_);
  const auto held = claims_.find(claim.key);
  if (held != claims_.end() && held->second == claim.fence) return absl::OkStatus();
  return SessionFenced(claim.key);
}

SessionUsage DiskRecords::Usage(const std::string& owner) {
  const MutexLock lock(mutex_);
  const auto usage = usages_.find(owner);
  return usage == usages_.end() ? SessionUsage() : usage->second;
}

SessionUsage DiskRecords::Total() {
  const MutexLock lock(mutex_);
  return total_;
}

}  // namespace t2r

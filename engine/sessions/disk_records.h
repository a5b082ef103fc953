// What a directory has of sessions, and who has one of them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"
#include "engine/sessions/disk_database.h"
#include "engine/sessions/session_info.h"
#include "engine/sessions/session_record.h"
#include "engine/sessions/session_tier.h"

namespace t2r {

// A session is a record, its states, and an entry in an index by expiry. Thread-safe; whatever
// reads or writes is called within a DiskDatabase::Use.
class DiskRecords {
 public:
  // clock: tells what has expired.
  DiskRecords(std::string directory, std::function<absl::Time()> clock);

  DiskDatabase& database() { return database_; }

  // As it lies there, though it may have expired.
  absl::StatusOr<SessionRecord> Read(const SessionKey& key) const;
  // NOT_FOUND also where it has expired, unless somebody has it, who may put that off.
  absl::StatusOr<SessionRecord> Find(const SessionKey& key);
  bool Expired(const SessionInfo& info) const { return info.expires <= clock_(); }
  // Every record whose key begins so, from `from` on, as long as `take` says to go on.
  absl::Status ForEach(const std::string& from, const std::string& prefix,
                       const std::function<bool(absl::StatusOr<SessionRecord>)>& take) const;
  // The owner's sessions, from the first behind `after` on.
  absl::StatusOr<std::vector<SessionInfo>> List(const std::string& owner, const std::string& after,
                                                int64_t count);

  // In the batch, instead of `before`, which may be null.
  static void Put(const SessionRecord* before, const SessionRecord& record,
                  rocksdb::WriteBatch* batch);
  // In the batch, with all its states. record: null where it cannot be read.
  void Delete(const SessionKey& key, const SessionRecord* record, rocksdb::WriteBatch* batch) const;
  // When a batch has been written: `after` is there instead of `before`; either may be null.
  void Count(const SessionRecord* before, const SessionRecord* after);
  // An entry of the index is about to be written.
  void Expect(absl::Time expiry);
  // Removes some of what has expired, but for what somebody has. Errors show at what is asked for
  // next. Most calls begin with it, so that none pays for many.
  void Purge();

  // Takes the session where nobody has it; 0: somebody has. Waits where Purge removes it.
  uint64_t Take(const SessionKey& key);
  void Free(const SessionKey& key);
  // ABORTED unless the claim is the session's last.
  absl::Status Held(const SessionClaim& claim);

  SessionUsage Usage(const std::string& owner);
  SessionUsage Total();

 private:
  absl::Status Recount() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether somebody has it; Purge is nobody.
  bool Taken(const SessionKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Add(const SessionInfo& info, int sign) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<absl::Time()> clock_;
  DiskDatabase database_;
  Mutex mutex_;  // never held over what waits for the disk, but when it is opened
  std::map<SessionKey, uint64_t> claims_ ABSL_GUARDED_BY(mutex_);  // 0: Purge has it
  CondVar purged_;
  uint64_t last_fence_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, SessionUsage> usages_ ABSL_GUARDED_BY(mutex_);
  SessionUsage total_ ABSL_GUARDED_BY(mutex_);
  // Nothing is to be purged before the first, and no entry of the index is before the second.
  absl::Time next_purge_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time first_expiry_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace t2r

// The RocksDB of a directory, which outlives failures of its disk.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/iterator.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r {

// Thread-safe. After a write that failed nothing is written before the database has been opened
// anew, which happens when nobody uses it. Errors name the directory: UNAVAILABLE with RocksDB's
// reason, or DATA_LOSS where it tells of damage.
class DiskDatabase {
 public:
  // opened: called whenever the database has been opened, before anybody else uses it.
  DiskDatabase(std::string directory, std::function<absl::Status()> opened)
      : directory_(std::move(directory)), opened_(std::move(opened)) {}

  // Makes the directory if need be. Once, before anything else.
  absl::Status Open() ABSL_LOCKS_EXCLUDED(mutex_);

  // While one whose status is OK is there, the database stays open.
  class Use {
   public:
    explicit Use(DiskDatabase& database) : database_(database), status_(database.Enter()) {}
    ~Use() {
      if (status_.ok()) database_.Leave();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    const absl::Status& status() const { return status_; }

   private:
    DiskDatabase& database_;
    const absl::Status status_;
  };

  // The rest, within a Use. UNAVAILABLE where the disk has no room for so many bytes.
  absl::Status HasRoom(uint64_t bytes) const;
  // durable: synced before it returns, with all that was written before.
  absl::Status Write(rocksdb::WriteBatch* batch, bool durable);
  // Unset: there is no such key.
  absl::StatusOr<std::optional<std::string>> Get(const std::string& key) const;
  std::unique_ptr<rocksdb::Iterator> From(const std::string& key) const;
  // What an iterator that ended says.
  absl::Status StatusOf(const rocksdb::Iterator& at) const;

  const std::string& directory() const { return directory_; }

 private:
  absl::Status Failed(const char* what, const rocksdb::Status& why) const;
  absl::Status OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Enter() ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string directory_;
  const std::function<absl::Status()> opened_;
  std::unique_ptr<rocksdb::DB> db_;  // changes under the lock, while nobody uses it
  std::atomic<bool> failed_{false};  // a write has, since it was opened
  Mutex mutex_;
  std::string failure_;  // why; written under the lock before `failed_`
  int users_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time next_open_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace t2r

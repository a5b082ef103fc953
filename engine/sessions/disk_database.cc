#include "engine/sessions/disk_database.h"

#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace t2r {
namespace {

// Of what RocksDB keeps of its files: indexes and filters, and blocks of records.
constexpr size_t kCacheBytes = 16 << 20;
constexpr size_t kWriteBufferBytes = 16 << 20;
// Of the disk, left to what RocksDB writes by itself.
constexpr size_t kReserveBytes = 2 * kWriteBufferBytes;
// Between two tries to open a directory anew that failed.
constexpr absl::Duration kOpenPause = absl::Milliseconds(500);

rocksdb::Options DatabaseOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  // States do not compress, and lie where they are not moved whenever records are.
  options.compression = rocksdb::kNoCompression;
  options.enable_blob_files = true;
  options.min_blob_size = 1024;
  options.enable_blob_garbage_collection = true;
  options.keep_log_file_num = 2;
  // What a write left unfinished at the end is nothing that was acknowledged; damage anywhere else
  // is told of, and nothing behind it dropped silently.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_open_files = 256;
  options.write_buffer_size = kWriteBufferBytes;
  // Where one holds a few states alone, writers do not wait for the one before to reach the disk.
  options.max_write_buffer_number = 4;
  options.max_total_wal_size = 4 * kWriteBufferBytes;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(kCacheBytes);
  table.cache_index_and_filter_blocks = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

}  // namespace

absl::Status DiskDatabase::Failed(const char* what, const rocksdb::Status& why) const {
  const std::string text =
      absl::StrCat("--session-dir ", directory_, ": ", what, ": ", why.ToString());
  return why.IsCorruption() ? absl::DataLossError(text) : absl::UnavailableError(text);
}

absl::Status DiskDatabase::Open() {
  const MutexLock lock(mutex_);
  return OpenLocked();
}

absl::Status DiskDatabase::OpenLocked() {
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), directory_, &opened);
  if (!status.ok()) return Failed("cannot be opened", status);
  db_.reset(opened);
  return opened_();
}

absl::Status DiskDatabase::Enter() {
  const MutexLock lock(mutex_);
  if (failed_ && users_ == 0 && absl::Now() >= next_open_) {
    next_open_ = absl::Now() + kOpenPause;
    db_.reset();
    const absl::Status opened = OpenLocked();
    failed_ = !opened.ok();
    if (!opened.ok()) failure_ = std::string(opened.message());
  }
  if (db_ == nullptr) return absl::UnavailableError(failure_);
  ++users_;
  return absl::OkStatus();
}

void DiskDatabase::Leave() {
  const MutexLock lock(mutex_);
  --users_;
}

absl::Status DiskDatabase::HasRoom(uint64_t bytes) const {
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(directory_, unknown);
  const uintmax_t wanted = bytes + kReserveBytes;
  if (unknown || space.available >= wanted) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("--session-dir ", directory_, ": cannot be written to: ", space.available,
                   " bytes are free on its disk, and ", wanted, " are needed"));
}

absl::Status DiskDatabase::Write(rocksdb::WriteBatch* batch, bool durable) {
  // RocksDB is not touched again after a failure, but opened anew when nobody uses it.
  if (failed_) return absl::UnavailableError(failure_);
  // Nor is it brought to write what has no room: as Debian builds it, it ends the process where a
  // file's second write fails.
  if (absl::Status room = HasRoom(batch->GetDataSize()); !room.ok()) return room;
  rocksdb::WriteOptions options;
  options.sync = durable;
  const rocksdb::Status written = db_->Write(options, batch);
  if (written.ok()) return absl::OkStatus();
  absl::Status status = Failed("cannot be written to", written);
  const MutexLock lock(mutex_);
  if (!failed_) failure_ = std::string(status.message());
  failed_ = true;
  return status;
}

absl::StatusOr<std::optional<std::string>> DiskDatabase::Get(const std::string& key) const {
  std::string value;
  const rocksdb::Status read = db_->Get(rocksdb::ReadOptions(), key, &value);
  if (read.ok()) return value;
  if (read.IsNotFound()) return std::nullopt;
  return Failed("cannot be read", read);
}

std::unique_ptr<rocksdb::Iterator> DiskDatabase::From(const std::string& key) const {
  std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(rocksdb::ReadOptions()));
  at->Seek(key);
  return at;
}

absl::Status DiskDatabase::StatusOf(const rocksdb::Iterator& at) const {
  return at.status().ok() ? absl::OkStatus() : Failed("cannot be read", at.status());
}

}  // namespace t2r

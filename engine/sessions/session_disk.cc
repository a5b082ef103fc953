#include "engine/sessions/session_disk.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

// Records of a kind lie together, so that all sessions are listed without reading a state.
constexpr char kInfo = 'i';
constexpr char kState = 's';
constexpr int64_t kInfoVersion = 1;

std::string Key(char kind, const std::string& id) { return absl::StrCat(std::string(1, kind), id); }

using Record = std::array<int64_t, 7>;

std::string Encode(const SessionInfo& info) {
  const Record record = {kInfoVersion,
                         info.position,
                         info.bytes,
                         absl::ToUnixNanos(info.created),
                         absl::ToUnixNanos(info.used),
                         absl::ToUnixNanos(info.expires),
                         absl::ToInt64Nanoseconds(info.ttl)};
  std::string bytes(sizeof record, '\0');
  std::memcpy(bytes.data(), record.data(), bytes.size());
  return bytes;
}

bool Decode(const rocksdb::Slice& bytes, SessionInfo* info) {
  Record record = {};
  if (bytes.size() != sizeof record) return false;
  std::memcpy(record.data(), bytes.data(), sizeof record);
  if (record[0] != kInfoVersion || record[1] < 0 || record[2] < 0) return false;
  info->position = record[1];
  info->bytes = record[2];
  info->created = absl::FromUnixNanos(record[3]);
  info->used = absl::FromUnixNanos(record[4]);
  info->expires = absl::FromUnixNanos(record[5]);
  info->ttl = absl::Nanoseconds(record[6]);
  return true;
}

rocksdb::WriteOptions Writing(bool durable) {
  rocksdb::WriteOptions options;
  options.sync = durable;
  return options;
}

}  // namespace

struct SessionDisk::Impl {
  absl::Status Failed(const char* what, const rocksdb::Status& why) const {
    const std::string text =
        absl::StrCat("--session-dir ", directory, ": ", what, ": ", why.ToString());
    return why.IsCorruption() ? absl::DataLossError(text) : absl::UnavailableError(text);
  }

  std::string directory;
  std::unique_ptr<rocksdb::DB> db;
};

SessionDisk::SessionDisk(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SessionDisk::~SessionDisk() = default;

absl::StatusOr<std::unique_ptr<SessionDisk>> SessionDisk::Open(const std::string& directory) {
  auto impl = std::make_unique<Impl>();
  impl->directory = directory;
  rocksdb::Options options;
  options.create_if_missing = true;
  // States do not compress, and are a few large values.
  options.compression = rocksdb::kNoCompression;
  options.keep_log_file_num = 2;
  options.max_open_files = 256;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(options, directory, &db);
  if (!opened.ok()) return impl->Failed("cannot be opened", opened);
  impl->db.reset(db);
  return std::unique_ptr<SessionDisk>(new SessionDisk(std::move(impl)));
}

absl::Status SessionDisk::ForEach(const std::function<void(SessionInfo)>& take) const {
  const std::unique_ptr<rocksdb::Iterator> at(impl_->db->NewIterator(rocksdb::ReadOptions()));
  for (at->Seek(std::string(1, kInfo)); at->Valid() && at->key()[0] == kInfo; at->Next()) {
    SessionInfo info;
    info.id = at->key().ToString().substr(1);
    if (!Decode(at->value(), &info)) {
      return absl::DataLossError(absl::StrCat("--session-dir ", impl_->directory, ": session ",
                                              info.id, " has a record that cannot be read"));
    }
    take(std::move(info));
  }
  return at->status().ok() ? absl::OkStatus() : impl_->Failed("cannot be read", at->status());
}

absl::Status SessionDisk::Put(const std::vector<SessionInfo>& sessions,
                              const std::string& snapshot) {
  rocksdb::WriteBatch batch;
  for (const SessionInfo& info : sessions) {
    batch.Put(Key(kInfo, info.id), Encode(info));
    batch.Put(Key(kState, info.id), snapshot);
  }
  const rocksdb::Status written = impl_->db->Write(Writing(true), &batch);
  return written.ok() ? absl::OkStatus() : impl_->Failed("cannot be written to", written);
}

absl::StatusOr<std::string> SessionDisk::Snapshot(const std::string& id) const {
  std::string snapshot;
  const rocksdb::Status read = impl_->db->Get(rocksdb::ReadOptions(), Key(kState, id), &snapshot);
  if (!read.ok()) return impl_->Failed("cannot be read", read);
  return snapshot;
}

absl::Status SessionDisk::Remove(const std::vector<std::string>& ids, bool durable) {
  rocksdb::WriteBatch batch;
  for (const std::string& id : ids) {
    batch.Delete(Key(kInfo, id));
    batch.Delete(Key(kState, id));
  }
  const rocksdb::Status written = impl_->db->Write(Writing(durable), &batch);
  return written.ok() ? absl::OkStatus() : impl_->Failed("cannot be written to", written);
}

}  // namespace t2r

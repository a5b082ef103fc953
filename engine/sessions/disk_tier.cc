#include "engine/sessions/disk_tier.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/io/mutex.h"
#include "engine/sessions/session_errors.h"

namespace t2r {
namespace {

// Records of a kind lie together, so that sessions are listed without reading a state.
constexpr char kRecord = 'r';
constexpr char kState = 'S';
constexpr char kExpiry = 'x';
constexpr size_t kNumberBytes = 8;
// Of what RocksDB keeps of its files: indexes and filters, and blocks of records.
constexpr size_t kCacheBytes = 16 << 20;
constexpr size_t kWriteBufferBytes = 16 << 20;
// Of the disk, left to what RocksDB writes by itself.
constexpr size_t kReserveBytes = 2 * kWriteBufferBytes;
// Between two tries to open a directory anew that failed.
constexpr absl::Duration kOpenPause = absl::Milliseconds(500);

// Big-endian, so that keys are in the order of numbers.
std::string Ordered(uint64_t number) {
  std::string bytes(kNumberBytes, '\0');
  for (size_t i = 0; i < kNumberBytes; ++i) {
    bytes[kNumberBytes - 1 - i] = static_cast<char>(number >> (8 * i));
  }
  return bytes;
}

uint64_t FromOrdered(std::string_view bytes) {
  uint64_t number = 0;
  for (const char c : bytes.substr(0, kNumberBytes)) {
    number = (number << 8) | static_cast<unsigned char>(c);
  }
  return number;
}

// The owner's sessions lie together, in the order of their ids.
std::string Place(const SessionKey& key) {
  return absl::StrCat(Ordered(key.owner.size()), key.owner, key.id);
}

bool FromPlace(std::string_view place, SessionKey* key) {
  if (place.size() < kNumberBytes) return false;
  const uint64_t size = FromOrdered(place);
  place.remove_prefix(kNumberBytes);
  if (size > place.size()) return false;
  key->owner = place.substr(0, size);
  key->id = place.substr(size);
  return true;
}

std::string RecordKey(const SessionKey& key) {
  return absl::StrCat(std::string(1, kRecord), Place(key));
}

std::string StatesOf(const SessionKey& key) {
  return absl::StrCat(std::string(1, kState), Ordered(key.id.size()), Place(key));
}

std::string StateKey(const SessionKey& key, StateName name) {
  return StatesOf(key) + Ordered(name);
}

std::string ExpiryKey(const SessionInfo& info) {
  const int64_t nanoseconds = std::max<int64_t>(absl::ToUnixNanos(info.expires), 0);
  return absl::StrCat(std::string(1, kExpiry), Ordered(static_cast<uint64_t>(nanoseconds)),
                      Place(info.key()));
}

rocksdb::Options DatabaseOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  // States do not compress, and are a few large values.
  options.compression = rocksdb::kNoCompression;
  options.enable_blob_files = true;
  options.min_blob_size = 4096;
  options.enable_blob_garbage_collection = true;
  options.keep_log_file_num = 2;
  // What a write left unfinished at the end is nothing that was acknowledged; damage anywhere else
  // is told of, and nothing behind it dropped silently.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_open_files = 256;
  options.write_buffer_size = kWriteBufferBytes;
  options.max_total_wal_size = 4 * kWriteBufferBytes;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(kCacheBytes);
  table.cache_index_and_filter_blocks = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

}  // namespace

struct DiskTier::Impl {
  absl::Status Failed(const char* what, const rocksdb::Status& why) const {
    const std::string text =
        absl::StrCat("--session-dir ", directory, ": ", what, ": ", why.ToString());
    return why.IsCorruption() ? absl::DataLossError(text) : absl::UnavailableError(text);
  }

  absl::Status Write(rocksdb::WriteBatch* batch, bool durable) {
    // RocksDB is not touched again after a failure, but opened anew when nobody uses it.
    if (failed) return absl::UnavailableError(failure);
    // Nor is it brought to write what has no room: as Debian builds it, it ends the process where a
    // file's second write fails.
    std::error_code unknown;
    const std::filesystem::space_info space = std::filesystem::space(directory, unknown);
    const uintmax_t wanted = batch->GetDataSize() + kReserveBytes;
    if (!unknown && space.available < wanted) {
      return absl::UnavailableError(
          absl::StrCat("--session-dir ", directory, ": cannot be written to: ", space.available,
                       " bytes are free on its disk, and ", wanted, " are needed"));
    }
    rocksdb::WriteOptions options;
    options.sync = durable;
    const rocksdb::Status written = db->Write(options, batch);
    if (written.ok()) return absl::OkStatus();
    absl::Status status = Failed("cannot be written to", written);
    const MutexLock lock(mutex);
    if (!failed) failure = std::string(status.message());
    failed = true;
    return status;
  }

  absl::Status Open() {
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), directory, &opened);
    if (!status.ok()) return Failed("cannot be opened", status);
    db.reset(opened);
    // A record that is damaged is told of when it is asked for.
    const std::string all(1, kRecord);
    return ForEach(all, all, [this](absl::StatusOr<SessionRecord> record) {
      if (record.ok()) Add(record->info, 1);
      return true;
    });
  }

  // Before any use, and after it.
  absl::Status Enter() {
    const MutexLock lock(mutex);
    if (failed && users == 0 && absl::Now() >= next_open) {
      next_open = absl::Now() + kOpenPause;
      usages.clear();
      total = {};
      db.reset();
      const absl::Status opened = Open();
      failed = !opened.ok();
      if (!opened.ok()) failure = std::string(opened.message());
    }
    if (db == nullptr) return absl::UnavailableError(failure);
    ++users;
    return absl::OkStatus();
  }
  void Leave() {
    const MutexLock lock(mutex);
    --users;
  }

  absl::StatusOr<SessionRecord> Read(const SessionKey& key) const {
    std::string bytes;
    const rocksdb::Status read = db->Get(rocksdb::ReadOptions(), RecordKey(key), &bytes);
    if (read.IsNotFound()) return NoSession(key);
    if (!read.ok()) return Failed("cannot be read", read);
    return DecodeRecord(key, bytes);
  }

  // Every record whose key begins so, as long as `take` says to go on.
  absl::Status ForEach(const std::string& from, const std::string& prefix,
                       const std::function<bool(absl::StatusOr<SessionRecord>)>& take) const {
    const std::unique_ptr<rocksdb::Iterator> at(db->NewIterator(rocksdb::ReadOptions()));
    for (at->Seek(from); at->Valid() && at->key().starts_with(prefix); at->Next()) {
      SessionKey key;
      const rocksdb::Slice raw = at->key();
      if (!FromPlace({raw.data() + 1, raw.size() - 1}, &key)) {
        return absl::DataLossError(
            absl::StrCat("--session-dir ", directory, ": has a key that no session has"));
      }
      const rocksdb::Slice value = at->value();
      if (!take(DecodeRecord(key, {value.data(), value.size()}))) break;
    }
    return at->status().ok() ? absl::OkStatus() : Failed("cannot be read", at->status());
  }

  // In the batch, instead of `before`, which may be null.
  void Put(const SessionRecord* before, const SessionRecord& record, rocksdb::WriteBatch* batch) {
    if (before != nullptr) batch->Delete(ExpiryKey(before->info));
    batch->Put(RecordKey(record.info.key()), EncodeRecord(record));
    batch->Put(ExpiryKey(record.info), "");
  }

  void Delete(const SessionKey& key, const SessionRecord* record, rocksdb::WriteBatch* batch) {
    batch->Delete(RecordKey(key));
    if (record != nullptr) batch->Delete(ExpiryKey(record->info));
    const std::unique_ptr<rocksdb::Iterator> at(db->NewIterator(rocksdb::ReadOptions()));
    const std::string prefix = StatesOf(key);
    for (at->Seek(prefix); at->Valid() && at->key().starts_with(prefix); at->Next()) {
      if (at->key().size() == prefix.size() + kNumberBytes) batch->Delete(at->key());
    }
  }

  void Count(const SessionRecord* before, const SessionRecord* after) {
    const MutexLock lock(mutex);
    if (before != nullptr) Add(before->info, -1);
    if (after != nullptr) Add(after->info, 1);
  }
  void Add(const SessionInfo& info, int sign) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    SessionUsage& usage = usages[info.owner];
    usage.sessions += sign;
    usage.bytes += sign * info.bytes;
    total.sessions += sign;
    total.bytes += sign * info.bytes;
    if (usage.sessions == 0) usages.erase(info.owner);
    if (sign > 0) next_expiry = std::min(next_expiry, info.expires);
  }

  // Takes the session where nobody has it; 0: somebody has.
  uint64_t Take(const SessionKey& key) {
    const MutexLock lock(mutex);
    const auto [claim, free] = claims.emplace(key, last_fence + 1);
    return free ? ++last_fence : 0;
  }
  void Free(const SessionKey& key) {
    const MutexLock lock(mutex);
    claims.erase(key);
  }
  absl::Status Held(const SessionClaim& claim) {
    const MutexLock lock(mutex);
    const auto held = claims.find(claim.key);
    if (held != claims.end() && held->second == claim.fence) return absl::OkStatus();
    return SessionFenced(claim.key);
  }

  // Removes what has expired, but for what somebody has. Errors show at what is asked for next.
  void Purge() {
    const absl::Time now = clock();
    {
      const MutexLock lock(mutex);
      if (now < next_expiry) return;
      next_expiry = absl::InfiniteFuture();
    }
    absl::Time next = absl::InfiniteFuture();
    const std::unique_ptr<rocksdb::Iterator> at(db->NewIterator(rocksdb::ReadOptions()));
    for (at->Seek(std::string(1, kExpiry)); at->Valid() && at->key()[0] == kExpiry; at->Next()) {
      const std::string_view raw(at->key().data() + 1, at->key().size() - 1);
      const absl::Time expires = absl::FromUnixNanos(static_cast<int64_t>(FromOrdered(raw)));
      SessionKey key;
      const bool known = raw.size() > kNumberBytes && FromPlace(raw.substr(kNumberBytes), &key);
      if (expires > now) {
        next = expires;
        break;
      }
      if (!known || Take(key) == 0) {
        next = std::min(next, now + absl::Seconds(1));
        continue;
      }
      const absl::StatusOr<SessionRecord> record = Read(key);
      rocksdb::WriteBatch batch;
      batch.Delete(at->key());
      const bool due = !record.ok() || record->info.expires <= now;
      if (due) Delete(key, record.ok() ? &*record : nullptr, &batch);
      if (Write(&batch, false).ok() && due && record.ok()) Count(&*record, nullptr);
      Free(key);
    }
    const MutexLock lock(mutex);
    next_expiry = std::min(next_expiry, next);
  }

  std::string directory;
  StateCodec codec;
  std::function<absl::Time()> clock;
  std::unique_ptr<rocksdb::DB> db;
  std::atomic<bool> failed{false};  // a write has, since it was opened
  Mutex mutex;
  std::string failure;  // why; written under the lock before `failed`
  int users ABSL_GUARDED_BY(mutex) = 0;
  absl::Time next_open ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
  std::map<SessionKey, uint64_t> claims ABSL_GUARDED_BY(mutex);
  uint64_t last_fence ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::string, SessionUsage> usages ABSL_GUARDED_BY(mutex);
  SessionUsage total ABSL_GUARDED_BY(mutex);
  absl::Time next_expiry ABSL_GUARDED_BY(mutex) = absl::InfinitePast();  // none is before
};

// While it is there the database stays open.
class DiskTier::Use {
 public:
  explicit Use(Impl& impl) : impl_(impl), status_(impl.Enter()) {}
  ~Use() {
    if (status_.ok()) impl_.Leave();
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  const absl::Status& status() const { return status_; }

 private:
  Impl& impl_;
  const absl::Status status_;
};

DiskTier::DiskTier(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DiskTier::~DiskTier() = default;

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const std::string& directory,
                                                         StateCodec codec,
                                                         std::function<absl::Time()> clock) {
  auto impl = std::make_unique<Impl>();
  impl->directory = directory;
  impl->codec = std::move(codec);
  impl->clock = std::move(clock);
  {
    const MutexLock lock(impl->mutex);
    if (absl::Status opened = impl->Open(); !opened.ok()) return opened;
  }
  rocksdb::DB* db = impl->db.get();
  // The kinds of records that versions before this one wrote.
  for (const char kind : {'i', 's'}) {
    const std::unique_ptr<rocksdb::Iterator> at(db->NewIterator(rocksdb::ReadOptions()));
    at->Seek(std::string(1, kind));
    if (at->Valid() && at->key()[0] == kind) {
      return absl::FailedPreconditionError(
          absl::StrCat("--session-dir ", directory,
                       ": has sessions of an earlier version, which this one does not read; save "
                       "them with that one, and load them with this"));
    }
  }
  auto tier = std::unique_ptr<DiskTier>(new DiskTier(std::move(impl)));
  tier->impl_->Purge();
  return tier;
}

absl::Status DiskTier::Create(const std::vector<SessionRecord>& records,
                              const std::shared_ptr<const SessionState>& state) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  std::vector<SessionKey> taken;
  absl::Status status;
  for (const SessionRecord& record : records) {
    const SessionKey key = record.info.key();
    if (impl_->Take(key) == 0) {
      status = SessionExists(key);
    } else {
      taken.push_back(key);
      const absl::Status there = impl_->Read(key).status();
      if (there.ok()) status = SessionExists(key);
      if (!there.ok() && !absl::IsNotFound(there)) status = there;
    }
    if (!status.ok()) break;
  }
  if (status.ok()) {
    const std::string snapshot = state == nullptr ? "" : impl_->codec.Write(*state);
    rocksdb::WriteBatch batch;
    for (const SessionRecord& record : records) {
      impl_->Put(nullptr, record, &batch);
      if (state != nullptr) batch.Put(StateKey(record.info.key(), record.state), snapshot);
    }
    status = impl_->Write(&batch, true);
  }
  for (const SessionKey& key : taken) impl_->Free(key);
  if (!status.ok()) return status;
  for (const SessionRecord& record : records) impl_->Count(nullptr, &record);
  return absl::OkStatus();
}

absl::StatusOr<SessionRecord> DiskTier::Get(const SessionKey& key) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  return impl_->Read(key);
}

absl::StatusOr<std::vector<SessionInfo>> DiskTier::List(const std::string& owner,
                                                        const std::string& after, int64_t count) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  std::vector<SessionInfo> page;
  // Nothing is between an id and itself with a zero byte.
  const std::string from = absl::StrCat(RecordKey({owner, after}), std::string(1, '\0'));
  const absl::Status read =
      impl_->ForEach(after.empty() ? RecordKey({owner, ""}) : from, RecordKey({owner, ""}),
                     [&](absl::StatusOr<SessionRecord> record) {
                       if (record.ok()) page.push_back(std::move(record->info));
                       return static_cast<int64_t>(page.size()) < count;
                     });
  if (!read.ok()) return read;
  return page;
}

absl::StatusOr<SessionTier::Claimed> DiskTier::Claim(const SessionKey& key, bool /*take_over*/) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  const uint64_t fence = impl_->Take(key);
  if (fence == 0) return SessionBusy(key);
  absl::StatusOr<SessionRecord> record = impl_->Read(key);
  if (record.ok()) return Claimed{{key, fence}, *std::move(record)};
  impl_->Free(key);
  return record.status();
}

absl::Status DiskTier::Change(const SessionClaim& claim, const SessionChange& change) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  if (absl::Status held = impl_->Held(claim); !held.ok()) return held;
  const absl::StatusOr<SessionRecord> before = impl_->Read(claim.key);
  if (!before.ok()) return before.status();
  rocksdb::WriteBatch batch;
  impl_->Put(&*before, change.record, &batch);
  if (change.name != 0) {
    batch.Put(StateKey(claim.key, change.name), impl_->codec.Write(*change.state));
  }
  for (const StateName name : change.drop) {
    if (name != 0) batch.Delete(StateKey(claim.key, name));
  }
  if (absl::Status s = impl_->Write(&batch, change.durable); !s.ok()) return s;
  impl_->Count(&*before, &change.record);
  if (change.release) impl_->Free(claim.key);
  return absl::OkStatus();
}

absl::Status DiskTier::Release(const SessionClaim& claim) {
  absl::Status held = impl_->Held(claim);
  if (held.ok()) impl_->Free(claim.key);
  return held;
}

absl::Status DiskTier::Remove(const SessionClaim& claim) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  if (absl::Status held = impl_->Held(claim); !held.ok()) return held;
  const absl::StatusOr<SessionRecord> record = impl_->Read(claim.key);
  rocksdb::WriteBatch batch;
  impl_->Delete(claim.key, record.ok() ? &*record : nullptr, &batch);
  if (absl::Status s = impl_->Write(&batch, true); !s.ok()) return s;
  if (record.ok()) impl_->Count(&*record, nullptr);
  impl_->Free(claim.key);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SessionState>> DiskTier::State(const SessionKey& key,
                                                                    StateName name,
                                                                    bool allow_inexact) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  std::string snapshot;
  const rocksdb::Status read =
      impl_->db->Get(rocksdb::ReadOptions(), StateKey(key, name), &snapshot);
  if (read.IsNotFound()) return NoState(key);
  if (!read.ok()) return impl_->Failed("cannot be read", read);
  return impl_->codec.Read(snapshot, allow_inexact);
}

absl::StatusOr<SessionUsage> DiskTier::Usage(const std::string& owner) {
  const Use use(*impl_);
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  const MutexLock lock(impl_->mutex);
  const auto usage = impl_->usages.find(owner);
  return usage == impl_->usages.end() ? SessionUsage() : usage->second;
}

absl::StatusOr<SessionUsage> DiskTier::Total() {
  const MutexLock lock(impl_->mutex);
  return impl_->total;
}

void DiskTier::Mirror(const SessionRecord& record,
                      const std::shared_ptr<const SessionState>& state) {
  const Use use(*impl_);
  if (!use.status().ok()) return;
  const SessionKey key = record.info.key();
  impl_->Purge();
  if (impl_->Take(key) == 0) return;
  const absl::StatusOr<SessionRecord> before = impl_->Read(key);
  rocksdb::WriteBatch batch;
  if (before.ok() && before->state != record.state) {
    batch.Delete(StateKey(key, before->state));
  }
  impl_->Put(before.ok() ? &*before : nullptr, record, &batch);
  batch.Put(StateKey(key, record.state), impl_->codec.Write(*state));
  if (impl_->Write(&batch, false).ok()) impl_->Count(before.ok() ? &*before : nullptr, &record);
  impl_->Free(key);
}

void DiskTier::Forget(const SessionKey& key) {
  const absl::StatusOr<Claimed> mine = Claim(key, false);
  if (mine.ok() && !Remove(mine->claim).ok()) static_cast<void>(Release(mine->claim));
}

}  // namespace t2r

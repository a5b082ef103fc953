#include "engine/sessions/disk_tier.h"

#include "absl/strings/str_cat.h"
#include "engine/sessions/disk_keys.h"
#include "engine/sessions/disk_records.h"
#include "engine/sessions/session_errors.h"

namespace t2r {
namespace {

// Of states that are made at once, how much is written at once.
constexpr size_t kPieceBytes = 8 << 20;

}  // namespace

struct DiskTier::Impl : DiskRecords {
  Impl(const std::string& directory, StateCodec given, std::function<absl::Time()> clock)
      : DiskRecords(directory, std::move(clock)), codec(std::move(given)) {}

  // Of sessions that are all taken: none of them may be there. What has expired goes, in the batch.
  absl::Status MakeWay(const std::vector<SessionRecord>& records,
                       std::vector<SessionRecord>* expired, rocksdb::WriteBatch* batch) {
    for (const SessionRecord& record : records) {
      absl::StatusOr<SessionRecord> there = Read(record.info.key());
      if (absl::IsNotFound(there.status())) continue;
      if (!there.ok()) return there.status();
      if (!Expired(there->info)) return SessionExists(record.info.key());
      Delete(record.info.key(), &*there, batch);
      expired->push_back(*std::move(there));
    }
    return absl::OkStatus();
  }

  // The state of each, in pieces, so that many large ones do not lie in memory together. A state
  // whose record does not follow goes with the entry in the index that is written beside it.
  absl::Status PutStates(const std::vector<SessionRecord>& records, const SessionState& state,
                         rocksdb::WriteBatch* batch) {
    const std::string snapshot = codec.Write(state);
    if (absl::Status room = database().HasRoom(records.size() * snapshot.size()); !room.ok()) {
      return room;
    }
    for (const SessionRecord& record : records) {
      if (batch->GetDataSize() >= kPieceBytes) {
        if (absl::Status s = database().Write(batch, /*durable=*/false); !s.ok()) return s;
        batch->Clear();
      }
      Expect(record.info.expires);
      batch->Put(disk::ExpiryKey(record.info), "");
      batch->Put(disk::StateKey(record.info.key(), record.state), snapshot);
    }
    return absl::OkStatus();
  }

  absl::Status Make(const std::vector<SessionRecord>& records,
                    const std::shared_ptr<const SessionState>& state) {
    std::vector<SessionRecord> expired;
    rocksdb::WriteBatch batch;
    absl::Status status = MakeWay(records, &expired, &batch);
    if (status.ok() && state != nullptr) status = PutStates(records, *state, &batch);
    if (!status.ok()) return status;
    for (const SessionRecord& record : records) Put(nullptr, record, &batch);
    status = database().Write(&batch, /*durable=*/true);
    if (!status.ok()) return status;
    for (const SessionRecord& record : expired) Count(&record, nullptr);
    for (const SessionRecord& record : records) Count(nullptr, &record);
    return status;
  }

  const StateCodec codec;
};

DiskTier::DiskTier(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DiskTier::~DiskTier() = default;

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const std::string& directory,
                                                         StateCodec codec,
                                                         std::function<absl::Time()> clock) {
  auto impl = std::make_unique<Impl>(directory, std::move(codec), std::move(clock));
  if (absl::Status opened = impl->database().Open(); !opened.ok()) return opened;
  const DiskDatabase::Use use(impl->database());
  if (!use.status().ok()) return use.status();
  // The kinds of records that versions before this one wrote.
  for (const char kind : {'i', 's'}) {
    const std::unique_ptr<rocksdb::Iterator> at = impl->database().From(std::string(1, kind));
    if (at->Valid() && at->key()[0] == kind) {
      return absl::FailedPreconditionError(
          absl::StrCat("--session-dir ", directory,
                       ": has sessions of an earlier version, which this one does not read; save "
                       "them with that one, and load them with this"));
    }
  }
  impl->Purge();
  return std::unique_ptr<DiskTier>(new DiskTier(std::move(impl)));
}

absl::Status DiskTier::Create(const std::vector<SessionRecord>& records,
                              const std::shared_ptr<const SessionState>& state) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  std::vector<SessionKey> taken;
  absl::Status status;
  for (const SessionRecord& record : records) {
    const SessionKey key = record.info.key();
    if (impl_->Take(key) == 0) {
      status = SessionExists(key);
      break;
    }
    taken.push_back(key);
  }
  if (status.ok()) status = impl_->Make(records, state);
  for (const SessionKey& key : taken) impl_->Free(key);
  return status;
}

absl::StatusOr<SessionRecord> DiskTier::Get(const SessionKey& key) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  return impl_->Find(key);
}

absl::StatusOr<std::vector<SessionInfo>> DiskTier::List(const std::string& owner,
                                                        const std::string& after, int64_t count) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  return impl_->List(owner, after, count);
}

absl::StatusOr<SessionTier::Claimed> DiskTier::Claim(const SessionKey& key, bool /*take_over*/) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  const uint64_t fence = impl_->Take(key);
  if (fence == 0) return SessionBusy(key);
  absl::StatusOr<SessionRecord> record = impl_->Read(key);
  if (record.ok() && impl_->Expired(record->info)) record = NoSession(key);
  if (record.ok()) return Claimed{{key, fence}, *std::move(record)};
  impl_->Free(key);
  return record.status();
}

absl::Status DiskTier::Change(const SessionClaim& claim, const SessionChange& change) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  if (absl::Status held = impl_->Held(claim); !held.ok()) return held;
  const absl::StatusOr<SessionRecord> before = impl_->Read(claim.key);
  if (!before.ok()) return before.status();
  rocksdb::WriteBatch batch;
  DiskRecords::Put(&*before, change.record, &batch);
  if (change.name != 0) {
    batch.Put(disk::StateKey(claim.key, change.name), impl_->codec.Write(*change.state));
  }
  for (const StateName name : DroppedStates(*before, change.record)) {
    batch.Delete(disk::StateKey(claim.key, name));
  }
  if (absl::Status s = impl_->database().Write(&batch, change.durable); !s.ok()) return s;
  impl_->Count(&*before, &change.record);
  if (change.release) impl_->Free(claim.key);
  return absl::OkStatus();
}

absl::Status DiskTier::Release(const SessionClaim& claim) {
  absl::Status held = impl_->Held(claim);
  if (held.ok()) impl_->Free(claim.key);
  return held;
}

absl::Status DiskTier::Delete(const SessionKey& key) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  if (impl_->Take(key) == 0) return SessionBusy(key);
  const absl::StatusOr<SessionRecord> record = impl_->Read(key);
  absl::Status status;
  if (!absl::IsNotFound(record.status())) {
    rocksdb::WriteBatch batch;
    impl_->Delete(key, record.ok() ? &*record : nullptr, &batch);
    status = impl_->database().Write(&batch, true);
    if (status.ok() && record.ok()) impl_->Count(&*record, nullptr);
  }
  impl_->Free(key);
  return status;
}

absl::StatusOr<std::shared_ptr<const SessionState>> DiskTier::State(const SessionKey& key,
                                                                    StateName name,
                                                                    bool allow_inexact) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  const absl::StatusOr<std::optional<std::string>> snapshot =
      impl_->database().Get(disk::StateKey(key, name));
  if (!snapshot.ok()) return snapshot.status();
  if (!snapshot->has_value()) return NoState(key);
  return impl_->codec.Read(**snapshot, allow_inexact);
}

absl::StatusOr<SessionUsage> DiskTier::Usage(const std::string& owner) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return use.status();
  impl_->Purge();
  return impl_->Usage(owner);
}

absl::StatusOr<SessionUsage> DiskTier::Total() { return impl_->Total(); }

void DiskTier::Purge() {
  const DiskDatabase::Use use(impl_->database());
  if (use.status().ok()) impl_->Purge();
}

void DiskTier::Mirror(const SessionRecord& record,
                      const std::shared_ptr<const SessionState>& state) {
  const DiskDatabase::Use use(impl_->database());
  if (!use.status().ok()) return;
  const SessionKey key = record.info.key();
  impl_->Purge();
  if (impl_->Take(key) == 0) return;
  const absl::StatusOr<SessionRecord> before = impl_->Read(key);
  rocksdb::WriteBatch batch;
  if (before.ok() && before->state != record.state) {
    batch.Delete(disk::StateKey(key, before->state));
  }
  DiskRecords::Put(before.ok() ? &*before : nullptr, record, &batch);
  batch.Put(disk::StateKey(key, record.state), impl_->codec.Write(*state));
  if (impl_->database().Write(&batch, false).ok()) {
    impl_->Count(before.ok() ? &*before : nullptr, &record);
  }
  impl_->Free(key);
}

}  // namespace t2r

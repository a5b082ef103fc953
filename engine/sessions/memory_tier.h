// Sessions in this process's memory alone, where there is no lower tier.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <utility>

#include "engine/io/mutex.h"
#include "engine/sessions/session_tier.h"

namespace t2r {

// What a session takes in memory beside its states: its entry, and its id twice.
inline constexpr int64_t kSessionEntryBytes = 512;

inline int64_t BytesOf(const std::shared_ptr<const SessionState>& state) {
  return kSessionEntryBytes + (state == nullptr ? 0 : state->bytes());
}

class MemoryTier final : public SessionTier {
 public:
  // limit: bytes that Fits holds all sessions to.
  MemoryTier(int64_t limit, std::function<absl::Time()> clock)
      : limit_(limit), clock_(std::move(clock)) {}

  // Whether `more` bytes have room beside all sessions. States that only serve to repeat a turn
  // that is over make room, the ones of the sessions used least recently first.
  bool Fits(int64_t more);
  int64_t bytes() const;

  absl::Status Create(const std::vector<SessionRecord>& records,
                      const std::shared_ptr<const SessionState>& state) override;
  absl::StatusOr<SessionRecord> Get(const SessionKey& key) override;
  absl::StatusOr<std::vector<SessionInfo>> List(const std::string& owner, const std::string& after,
                                                int64_t count) override;
  absl::StatusOr<Claimed> Claim(const SessionKey& key, bool take_over) override;
  absl::Status Renew(const std::vector<SessionClaim>& /*claims*/) override {
    return absl::OkStatus();
  }
  absl::Status Change(const SessionClaim& claim, const SessionChange& change) override;
  absl::Status Release(const SessionClaim& claim) override;
  absl::Status Delete(const SessionKey& key) override;
  absl::StatusOr<std::shared_ptr<const SessionState>> State(const SessionKey& key, StateName name,
                                                            bool allow_inexact) override;
  absl::StatusOr<SessionUsage> Usage(const std::string& owner) override;
  absl::StatusOr<SessionUsage> Total() override;

 private:
  struct Entry {
    SessionRecord record;
    std::map<StateName, std::shared_ptr<const SessionState>> states;
    uint64_t fence = 0;  // 0: nobody has it
  };
  using Entries = std::map<SessionKey, Entry>;

  void Purge() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts the record into the entry, and counts it.
  void Set(Entry& entry, const SessionRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddState(Entry& entry, StateName name, std::shared_ptr<const SessionState> state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropState(Entry& entry, StateName name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Erase(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Entries::iterator> Held(const SessionClaim& claim)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t limit_;
  const std::function<absl::Time()> clock_;
  mutable Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<absl::Time, SessionKey>> expiries_ ABSL_GUARDED_BY(mutex_);  // of entries_
  // By their last use, the ones that have a state to repeat a turn from.
  std::set<std::pair<absl::Time, SessionKey>> repeatable_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, SessionUsage> usage_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_fence_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace t2r

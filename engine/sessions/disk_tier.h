// Sessions in a directory, by RocksDB: what survives the process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/sessions/session_tier.h"
#include "engine/sessions/state_codec.h"

namespace t2r {

// A session is a record, its states, and an entry in an index by expiry; they change together.
// Little of it lies in memory: what RocksDB caches, the claims, and a count for each tenant. A full
// or unreadable disk is UNAVAILABLE with RocksDB's reason and the directory; what was there before
// stays, and after a write that failed the directory is opened anew, until it can be.
class DiskTier final : public SessionTier {
 public:
  // Makes the directory if need be. One process at a time has it.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(const std::string& directory,
                                                        StateCodec codec,
                                                        std::function<absl::Time()> clock);
  ~DiskTier() override;

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

  // Removes some of what has expired, as most calls do.
  void Purge();
  // Of a copy beside a shared store, which holds what is true: the session as it is there, its
  // state alone. What cannot be written is not there.
  void Mirror(const SessionRecord& record, const std::shared_ptr<const SessionState>& state);

 private:
  struct Impl;
  explicit DiskTier(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r

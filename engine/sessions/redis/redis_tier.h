// Sessions in a Redis or Valkey server that several servers share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/sessions/redis/redis_pool.h"
#include "engine/sessions/session_tier.h"
#include "engine/sessions/state_codec.h"

namespace t2r {

// A session is one hash: its record, its states, and who has it until when. What changes one is a
// script, which the server runs whole and alone; a change under an old number changes nothing. A
// claim lasts for `lease` from when it was taken or renewed, by the store's clock; then others may
// claim the session. The hash expires with the session (PEXPIREAT); a sorted set by expiry lets go
// of its entries in the tenant's lists.
class RedisTier final : public SessionTier {
 public:
  RedisTier(RedisOptions options, StateCodec codec, absl::Duration lease);

  absl::Status Create(const std::vector<SessionRecord>& records,
                      const std::shared_ptr<const SessionState>& state) override;
  absl::StatusOr<SessionRecord> Get(const SessionKey& key) override;
  absl::StatusOr<std::vector<SessionInfo>> List(const std::string& owner, const std::string& after,
                                                int64_t count) override;
  absl::StatusOr<Claimed> Claim(const SessionKey& key, bool take_over) override;
  absl::Status Renew(const std::vector<SessionClaim>& claims) override;
  absl::Status Change(const SessionClaim& claim, const SessionChange& change) override;
  absl::Status Release(const SessionClaim& claim) override;
  absl::Status Delete(const SessionKey& key) override;
  absl::StatusOr<std::shared_ptr<const SessionState>> State(const SessionKey& key, StateName name,
                                                            bool allow_inexact) override;
  absl::StatusOr<SessionUsage> Usage(const std::string& owner) override;
  absl::StatusOr<SessionUsage> Total() override;

 private:
  // Runs a script of redis_scripts.h; an error that the server answers becomes UNAVAILABLE, or
  // RESOURCE_EXHAUSTED where its memory is full.
  absl::StatusOr<RedisReply> Run(const char* script, const std::string& owner,
                                 const std::vector<std::string>& arguments);
  absl::StatusOr<RedisReply> Ask(const std::vector<std::string_view>& command);
  // Of a script that answers 1, or 0 where the claim is not the last one.
  absl::Status RunHeld(const char* script, const SessionClaim& claim,
                       const std::vector<std::string>& arguments);
  absl::Status Strange(const char* what) const;

  const std::string address_;  // for messages
  RedisPool pool_;
  const StateCodec codec_;
  const std::string lease_ms_;
  const std::string holder_;  // this process's name
};

}  // namespace t2r

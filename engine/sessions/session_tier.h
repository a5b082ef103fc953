// Where sessions are kept between turns: the interface of memory, the disk and a shared store.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sessions/session_info.h"
#include "engine/sessions/session_record.h"
#include "engine/snapshot/session_state.h"

namespace t2r {

// The right to change a session. Claims of one session are numbered upwards, and a tier takes
// changes under the number it gave out last alone: who was away for so long that another has the
// session changes nothing any more.
struct SessionClaim {
  SessionKey key;
  uint64_t fence = 0;
};

// What a holder of a claim changes, all of it or nothing. States that the record names no more go.
struct SessionChange {
  SessionRecord record;  // as it is to be
  // With a name: a state that is added. Null with a name of 0.
  StateName name = 0;
  std::shared_ptr<const SessionState> state;
  bool release = false;  // the claim ends with it
  // Kept whatever happens to the machine, when it returns; else whatever happens to the process.
  bool durable = true;
};

// Thread-safe; all of it may wait for a disk or a network. Expired sessions are not there. Errors:
//   NOT_FOUND       there is no such session
//   ALREADY_EXISTS  the id is taken
//   ABORTED         another has the session; or, of a change, has had it since
//   UNAVAILABLE     the tier cannot be reached, read or written; names it and says what was tried
//   RESOURCE_EXHAUSTED  the tier is full; names it
//   DATA_LOSS       what it holds cannot be read
//   and what ReadSnapshot says of states
class SessionTier {
 public:
  SessionTier() = default;
  virtual ~SessionTier() = default;
  SessionTier(const SessionTier&) = delete;
  SessionTier& operator=(const SessionTier&) = delete;

  // Sessions of one tenant that all stand at `state`, under the name that all their records have
  // for it; null: they have no tokens. All of them, or none.
  virtual absl::Status Create(const std::vector<SessionRecord>& records,
                              const std::shared_ptr<const SessionState>& state) = 0;
  virtual absl::StatusOr<SessionRecord> Get(const SessionKey& key) = 0;
  // Up to `count` in the order of their ids, from the first behind `after` on. Those whose record
  // cannot be read are left out: Get tells of them.
  virtual absl::StatusOr<std::vector<SessionInfo>> List(const std::string& owner,
                                                        const std::string& after,
                                                        int64_t count) = 0;
  struct Claimed {
    SessionClaim claim;
    SessionRecord record;
  };
  // take_over: also where another process has it, which then changes nothing any more. One process
  // asks for a session once at a time.
  virtual absl::StatusOr<Claimed> Claim(const SessionKey& key, bool take_over) = 0;
  // Claims end by themselves where a process may vanish and leave them; this puts the ends off of
  // those that have not been released. One whose session another has is passed over: its holder is
  // told by what it changes. Tries all of them; the first error.
  virtual absl::Status Renew(const std::vector<SessionClaim>& claims) = 0;
  virtual absl::Status Change(const SessionClaim& claim, const SessionChange& change) = 0;
  virtual absl::Status Release(const SessionClaim& claim) = 0;
  // Removes the session, where there is one: also one whose record cannot be read, and where there
  // is no room for changes. ABORTED while anybody has it.
  virtual absl::Status Delete(const SessionKey& key) = 0;
  virtual absl::StatusOr<std::shared_ptr<const SessionState>> State(const SessionKey& key,
                                                                    StateName name,
                                                                    bool allow_inexact) = 0;
  virtual absl::StatusOr<SessionUsage> Usage(const std::string& owner) = 0;
  // Of all tenants.
  virtual absl::StatusOr<SessionUsage> Total() = 0;
};

}  // namespace t2r

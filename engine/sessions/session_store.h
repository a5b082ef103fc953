// Sessions between their turns, by owner and id.
//
// A session is a sequence that outlives its requests. While a turn runs it has a slot of the
// engine; between turns it lies in the lowest tier that there is: a store that several servers
// share, else a directory, else host memory. Above a lower tier, memory (and above a shared store
// the directory too) hold copies of states that were used lately. Nothing is dropped before it
// expires: where memory is the only tier and full, what would need more is refused.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/io/mutex.h"
#include "engine/sessions/disk_tier.h"
#include "engine/sessions/memory_tier.h"
#include "engine/sessions/redis/redis_address.h"
#include "engine/sessions/session_info.h"
#include "engine/sessions/session_tier.h"
#include "engine/sessions/state_cache.h"
#include "engine/sessions/state_codec.h"
#include "engine/sessions/watched_tier.h"
#include "engine/snapshot/session_state.h"

namespace t2r {

inline constexpr absl::Duration kMaxSessionTtl = absl::Hours(24 * 3650);
inline constexpr int64_t kMaxForks = 1024;  // of one call
inline constexpr int64_t kMaxSessionPage = 1000;

struct SessionStoreOptions {
  std::string directory;                     // on the disk; empty: there is none
  std::optional<RedisAddress> shared;        // unset: there is none
  std::string shared_ca;                     // see RedisOptions::ca_file
  absl::Duration lease = absl::Seconds(10);  // how long a claim in the shared store lasts
  // How often the directory is purged of what has expired beside the purges of its calls.
  absl::Duration purge_pause = absl::Seconds(5);
  int64_t memory_bytes = int64_t{256} << 20;  // of all sessions
  absl::Duration ttl = absl::Hours(24);       // of sessions that name none
  std::function<absl::Time()> clock;          // null: absl::Now
  SessionObserver* observer = nullptr;        // of the lower tiers; outlives the store
};

class SessionTurn;

// Thread-safe; what is told of a tier holds for every call: it may wait for a disk or a network.
// Errors name the session:
//   INVALID_ARGUMENT     an id or a time that no session can have
//   NOT_FOUND            no such session of this owner, or it has expired
//   ALREADY_EXISTS       the id is taken
//   ABORTED              a turn of the session is running (with the payload kSessionBusyUrl), or it
//                        stands elsewhere than expected; of a turn that ends: another server has
//                        taken the session over meanwhile
//   RESOURCE_EXHAUSTED   there is no room, or the owner's quota is used up; names the limit
//   FAILED_PRECONDITION  a state of another exactness class; a turn that cannot be gone on with
//   UNAVAILABLE          a tier cannot be reached, read or written; what it had is unchanged
//   DATA_LOSS            what a tier has of the session is damaged
class SessionStore {
 public:
  // limits: of the executor whose sessions these are. Takes up what the options' directory has; a
  // shared store is not asked before it is needed.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Open(const ExecutorLimits& limits,
                                                            std::string exactness_class,
                                                            SessionStoreOptions options);
  // In memory only.
  SessionStore(const ExecutorLimits& limits, std::string exactness_class,
               SessionStoreOptions options);
  // No turn may be left.
  ~SessionStore();

  // An id that is empty is made up. A ttl of zero is the options'.
  absl::StatusOr<SessionInfo> Create(const std::string& id, absl::Duration ttl,
                                     const SessionOwner& owner = {});
  absl::StatusOr<SessionInfo> Get(const std::string& id, const SessionOwner& owner = {});
  // Up to `count` sessions in the order of their ids, from the first behind `after` on.
  absl::StatusOr<std::vector<SessionInfo>> List(const std::string& after, int64_t count,
                                                const SessionOwner& owner = {});
  // `count` sessions that stand where this one stands, a running turn left out. new_id: of the one
  // copy, or what the ids of several begin with; empty: made up. All of them, or none.
  absl::StatusOr<std::vector<SessionInfo>> Fork(const std::string& id, const std::string& new_id,
                                                int64_t count, const SessionOwner& owner = {});
  absl::Status Delete(const std::string& id, const SessionOwner& owner = {});
  // As a snapshot (engine/snapshot/snapshot.h). FAILED_PRECONDITION for a session without tokens.
  absl::StatusOr<std::string> Export(const std::string& id, const SessionOwner& owner = {});
  // A session of its own from a snapshot; also fails as ReadSnapshot does.
  absl::StatusOr<SessionInfo> Import(const std::string& id, absl::Duration ttl,
                                     const std::string& snapshot, bool allow_inexact = false,
                                     const SessionOwner& owner = {});
  // The largest snapshot that Import takes.
  int64_t max_snapshot_bytes() const;

  struct TurnRequest {
    std::string id;       // empty, with create: made up
    bool create = false;  // make the session if there is none
    std::optional<int64_t> expected_position = std::nullopt;
    absl::Duration ttl = absl::ZeroDuration();  // from now on; zero: as it is
    // Goes on with the turn that began last, for a client that has its tokens up to this position:
    // from the last state before it, or over again. Another server that runs it is cut off; this
    // one ends its request, and is busy until it has.
    std::optional<int64_t> resume_at = std::nullopt;
    bool allow_inexact = false;  // goes on from a state of another exactness class too
    SessionOwner owner = {};
  };
  // Begins a turn: the only one of its session until it is over.
  absl::StatusOr<SessionTurn> Begin(const TurnRequest& request);

  // Of all owners: in the lowest tier (of a shared store as it was some seconds ago), and of the
  // states in memory and on the disk.
  SessionUsage kept() const;
  SessionUsage in_memory() const;
  SessionUsage on_disk() const;
  bool has_shared() const { return options_.shared.has_value(); }

 private:
  friend class SessionTurn;

  // A session that somebody of this process has for himself.
  struct Live {
    SessionClaim claim;
    SessionOwner owner;
    absl::Duration ttl;     // of the session from its end on; zero: as it is
    int64_t resume_at = 0;  // of a turn that is gone on with
    bool resumed = false;
    // Where the turn goes on from, in this process.
    StateName name = 0;
    std::shared_ptr<const SessionState> state;

    Mutex mutex;  // held over what a tier does, by workers alone
    SessionRecord record ABSL_GUARDED_BY(mutex);
    bool started ABSL_GUARDED_BY(mutex) = false;
    bool over ABSL_GUARDED_BY(mutex) = false;

    int64_t reserved = 0;       // bytes; of whoever has the turn
    std::function<void()> cut;  // what SessionTurn::OnTakeOver gave; under the store's mutex
  };
  using LivePtr = std::shared_ptr<Live>;

  absl::Time Now() const { return options_.clock ? options_.clock() : absl::Now(); }
  std::function<absl::Time()> Clock() const;
  bool memory_only() const { return memory_ != nullptr; }
  // Makes room for so many bytes and takes them, until Unreserve.
  absl::Status Reserve(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Unreserve(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Keep(StateName name, std::shared_ptr<const SessionState> state) ABSL_LOCKS_EXCLUDED(mutex_);
  // Of what is asked for, beside what the lowest tier has and what others are making.
  absl::Status CheckQuota(const SessionOwner& owner, int64_t sessions, int64_t bytes,
                          const SessionUsage& others);
  // Counts what the owner begins to make (negative: has made, or not), which the lowest tier does
  // not know of yet; what was being made before.
  SessionUsage BeingMade(const SessionOwner& owner, int64_t sessions, int64_t bytes)
      ABSL_LOCKS_EXCLUDED(mutex_);

  absl::StatusOr<std::vector<SessionInfo>> AddAll(const std::vector<std::string>& ids,
                                                  absl::Duration ttl,
                                                  const std::shared_ptr<const SessionState>& state,
                                                  const SessionOwner& owner);
  // From memory, the directory, or the lowest tier. Null for the name 0.
  absl::StatusOr<std::shared_ptr<const SessionState>> Load(const SessionKey& key, StateName name,
                                                           bool allow_inexact);
  // Of a session as it stands, and the state.
  absl::StatusOr<std::pair<SessionRecord, std::shared_ptr<const SessionState>>> Find(
      const SessionKey& key);
  // Takes the session for this process alone; ABORTED where it is taken already. take_over: whoever
  // has it is told to give it up.
  absl::StatusOr<LivePtr> Hold(const SessionKey& key, bool take_over);
  void LetGo(const SessionKey& key);
  absl::StatusOr<SessionTier::Claimed> ClaimOrCreate(const TurnRequest& request,
                                                     const SessionKey& key);
  // Which state a turn goes on from.
  absl::StatusOr<StateName> Origin(const TurnRequest& request, const SessionRecord& record) const;

  // ---- Of turns ----
  absl::Status ReserveFor(Live& live, int64_t positions);
  absl::Status Start(Live& live, TurnParameters turn, int64_t positions);
  absl::Status Checkpoint(Live& live, const std::shared_ptr<const SessionState>& state, bool park);
  absl::Status Commit(Live& live, const std::shared_ptr<const SessionState>& state);
  // The turn is over, however it ended. state: what may be wanted next, under its name.
  void End(Live& live, bool release, StateName name, std::shared_ptr<const SessionState> state);

  // Puts the ends of this process's claims in the shared store off, until this store goes.
  void KeepClaims();
  // Removes from the directory, where it is the lowest tier, what has expired, likewise.
  void PurgeDirectory();

  const StateCodec codec_;
  const SessionStoreOptions options_;
  MemoryTier* memory_ = nullptr;       // the lowest tier, where it is the only one
  DiskTier* disk_ = nullptr;           // the lowest tier, or beside a shared one
  std::unique_ptr<DiskTier> mirror_;   // beside a shared one
  std::unique_ptr<SessionTier> tier_;  // the lowest

  mutable Mutex mutex_;  // never held over what waits
  std::map<SessionKey, LivePtr> live_ ABSL_GUARDED_BY(mutex_);
  StateCache cache_ ABSL_GUARDED_BY(mutex_);  // empty where memory is the only tier
  int64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, SessionUsage> being_made_ ABSL_GUARDED_BY(mutex_);  // by owner
  SessionUsage shared_usage_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar stop_;
  std::thread keeper_;
};

// A turn that runs. Movable; when it goes without Commit or Park the session is as it was before,
// but for what is known of the turn. The store must outlive it. May wait for a tier, its end too.
class SessionTurn {
 public:
  SessionTurn(SessionTurn&& other) noexcept = default;
  SessionTurn& operator=(SessionTurn&& other) noexcept;
  ~SessionTurn();

  const std::string& id() const { return live_->claim.key.id; }
  // Where it goes on from; null: the session has no tokens.
  const std::shared_ptr<const SessionState>& state() const { return live_->state; }
  int64_t position() const { return state() == nullptr ? 0 : state()->position(); }
  // Of one that is gone on with: what its request was, and up to where the client has it.
  std::optional<TurnParameters> resumed() const;
  int64_t resume_at() const { return live_->resume_at; }

  // Makes sure that there will be room for a state of so many positions. RESOURCE_EXHAUSTED naming
  // the limit.
  absl::Status Reserve(int64_t positions);
  // The same, and what the turn is becomes known to the lowest tier: from here on it can be gone
  // on with.
  absl::Status Start(TurnParameters turn, int64_t positions);
  // What ends the turn's request, for a client that goes on with the turn over another connection
  // before this server has noticed that the first is gone. Called by any thread, also when the turn
  // is over; must not block.
  void OnTakeOver(std::function<void()> cut);
  // Stores a state on the way, in the lowest tier, so that less is to be made again. What it gives
  // may be called by any thread, also when the turn is over, and then does nothing.
  std::function<absl::Status(const std::shared_ptr<const SessionState>&)> Checkpointer() const;
  // The turn is over, and the session stands at `state`, in the lowest tier too; or, after an
  // error, where it stood before.
  absl::Status Commit(const std::shared_ptr<const SessionState>& state);
  // The turn stops at `state` (null: before its first token), to be gone on with by any server.
  absl::Status Park(const std::shared_ptr<const SessionState>& state);

 private:
  friend class SessionStore;
  SessionTurn(SessionStore* store, SessionStore::LivePtr live)
      : store_(store), live_(std::move(live)) {}
  void End();

  SessionStore* store_;
  SessionStore::LivePtr live_;  // null: moved from, or over
};

}  // namespace t2r

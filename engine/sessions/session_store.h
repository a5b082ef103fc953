// Sessions between their turns, by id.
//
// A session is a sequence that outlives its requests. While a turn runs it has a slot of the
// engine; between turns its state lies here: in host memory, and where there is a directory on the
// disk too, as soon as the turn is over. Nothing is dropped before it expires. Memory that is full
// is taken from the states that were used least recently and are on the disk; where there are none,
// what would need more is refused.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/io/mutex.h"
#include "engine/sessions/session_disk.h"
#include "engine/sessions/session_info.h"
#include "engine/snapshot/session_state.h"

namespace t2r {

inline constexpr absl::Duration kMaxSessionTtl = absl::Hours(24 * 3650);
inline constexpr int64_t kMaxForks = 1024;  // of one call
inline constexpr int64_t kMaxSessionPage = 1000;

struct SessionStoreOptions {
  std::string directory;                      // on the disk; empty: in memory only
  int64_t memory_bytes = int64_t{256} << 20;  // of all sessions
  absl::Duration ttl = absl::Hours(24);       // of sessions that name none
  std::function<absl::Time()> clock;          // null: absl::Now
};

class SessionTurn;

// Thread-safe. Errors name the session:
//   INVALID_ARGUMENT    an id or a time that no session can have
//   NOT_FOUND           no such session, or it has expired
//   ALREADY_EXISTS      the id is taken
//   ABORTED             a turn of the session is running, or it stands elsewhere than expected
//   RESOURCE_EXHAUSTED  there is no room; names the limit
//   UNAVAILABLE         the directory cannot be read or written; what it had is unchanged
//   DATA_LOSS           what the directory has of the session is damaged
class SessionStore {
 public:
  // limits: of the executor whose sessions these are. Takes up what the options' directory has.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Open(const ExecutorLimits& limits,
                                                            std::string exactness_class,
                                                            SessionStoreOptions options);
  // In memory only.
  SessionStore(const ExecutorLimits& limits, std::string exactness_class,
               SessionStoreOptions options);

  // An id that is empty is made up. A ttl of zero is the options'.
  absl::StatusOr<SessionInfo> Create(const std::string& id, absl::Duration ttl);
  absl::StatusOr<SessionInfo> Get(const std::string& id);
  // Up to `count` sessions in the order of their ids, from the first behind `after` on.
  std::vector<SessionInfo> List(const std::string& after, int64_t count);
  // `count` sessions that stand where this one stands, a running turn left out. new_id: of the one
  // copy, or what the ids of several begin with; empty: made up. All of them, or none.
  absl::StatusOr<std::vector<SessionInfo>> Fork(const std::string& id, const std::string& new_id,
                                                int64_t count);
  absl::Status Delete(const std::string& id);
  // As a snapshot (engine/snapshot/snapshot.h). FAILED_PRECONDITION for a session without tokens.
  absl::StatusOr<std::string> Export(const std::string& id);
  // A session of its own from a snapshot; also fails as ReadSnapshot does.
  absl::StatusOr<SessionInfo> Import(const std::string& id, absl::Duration ttl,
                                     const std::string& snapshot);
  // The largest snapshot that Import takes.
  int64_t max_snapshot_bytes() const;

  struct TurnRequest {
    std::string id;
    bool create = false;  // make the session if there is none
    std::optional<int64_t> expected_position = std::nullopt;
    absl::Duration ttl = absl::ZeroDuration();  // from now on; zero: as it is
  };
  // Begins a turn: the only one of its session until it is over.
  absl::StatusOr<SessionTurn> Begin(const TurnRequest& request);

  int64_t sessions() const;
  // Of these, the ones whose states are in memory, and on the disk.
  int64_t in_memory() const;
  int64_t on_disk() const;
  int64_t bytes() const;  // in memory

 private:
  friend class SessionTurn;

  struct Entry {
    SessionInfo info;
    std::shared_ptr<const SessionState> state;  // null: no tokens yet, or on the disk alone
    bool busy = false;                          // somebody changes it, or reads it from the disk
    int64_t reserved = 0;  // bytes that count beside info.bytes, for what the turn will leave
  };
  using Entries = std::map<std::string, Entry>;

  absl::Time Now() const { return options_.clock ? options_.clock() : absl::Now(); }
  // Forgets what has expired by `now`, except for sessions with a turn.
  void Purge(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Entries::iterator> Find(const std::string& id, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MakeRoom(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Entries::iterator> Add(std::string id, absl::Duration ttl,
                                        std::shared_ptr<const SessionState> state, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetState(Entry& entry, std::shared_ptr<const SessionState> state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Erase(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Use(Entry& entry, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Adds sessions that all stand at `state`, on the disk too: all of them, or none.
  absl::StatusOr<std::vector<SessionInfo>> AddAll(const std::vector<std::string>& ids,
                                                  absl::Duration ttl,
                                                  const std::shared_ptr<const SessionState>& state);
  // The state of a session that is there, read from the disk if need be. busy: it is the caller's
  // from here on. OK with null: it has no tokens.
  absl::StatusOr<std::shared_ptr<const SessionState>> StateOf(const std::string& id, bool busy);

  // ---- Of turns ----
  absl::Status Reserve(const std::string& id, int64_t positions);
  absl::Status Commit(const std::string& id, absl::Duration ttl,
                      std::shared_ptr<const SessionState> state);
  void Release(const std::string& id);

  const ExecutorLimits limits_;
  const std::string exactness_class_;
  const SessionStoreOptions options_;
  std::unique_ptr<SessionDisk> disk_;  // null: in memory only
  mutable Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<absl::Time, std::string>> expiries_ ABSL_GUARDED_BY(mutex_);  // of entries_
  // By their last use, the ones whose states are in memory.
  std::set<std::pair<absl::Time, std::string>> resident_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of entries_, with what is reserved
};

// A turn that runs. Movable; when it goes without Commit the session is as it was before. The store
// must outlive it.
class SessionTurn {
 public:
  SessionTurn(SessionTurn&& other) noexcept;
  SessionTurn& operator=(SessionTurn&& other) noexcept;
  ~SessionTurn();

  const std::string& id() const { return id_; }
  // Where it began; null: the session has no tokens.
  const std::shared_ptr<const SessionState>& state() const { return state_; }
  int64_t position() const { return state_ == nullptr ? 0 : state_->position(); }
  // Makes sure that there will be room for a state of so many positions. RESOURCE_EXHAUSTED naming
  // the limit.
  absl::Status Reserve(int64_t positions);
  // The turn is over, and the session stands at `state`, on the disk too; or, after an error, where
  // it stood before. May wait for the disk.
  absl::Status Commit(std::shared_ptr<const SessionState> state);

 private:
  friend class SessionStore;
  SessionTurn(SessionStore* store, std::string id, absl::Duration ttl,
              std::shared_ptr<const SessionState> state)
      : store_(store), id_(std::move(id)), ttl_(ttl), state_(std::move(state)) {}

  SessionStore* store_;  // null: over
  std::string id_;
  absl::Duration ttl_;  // of the session from Commit on; zero: as it is
  std::shared_ptr<const SessionState> state_;
};

}  // namespace t2r

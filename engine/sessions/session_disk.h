// Sessions in a directory, by RocksDB: what survives the process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sessions/session_info.h"

namespace t2r {

// A session is two records that change together: what it is, which is small, and where it stands,
// as a snapshot. What Put has written is on the disk when it returns, whatever happens to the
// process then. Thread-safe; the caller sees to it that nobody else writes to the same
// session. Errors are UNAVAILABLE with RocksDB's reason and the directory, and DATA_LOSS for what
// cannot be read.
class SessionDisk {
 public:
  // Makes the directory if need be. One process at a time has it.
  static absl::StatusOr<std::unique_ptr<SessionDisk>> Open(const std::string& directory);
  ~SessionDisk();
  SessionDisk(const SessionDisk&) = delete;
  SessionDisk& operator=(const SessionDisk&) = delete;

  // All sessions, in the order of their ids.
  absl::Status ForEach(const std::function<void(SessionInfo)>& take) const;
  // Sessions with their snapshots, empty for those without tokens: all of them, or none.
  absl::Status Put(const std::vector<SessionInfo>& sessions, const std::string& snapshot);
  absl::StatusOr<std::string> Snapshot(const std::string& id) const;
  // durable: removed for good when it returns.
  absl::Status Remove(const std::vector<std::string>& ids, bool durable);

 private:
  struct Impl;
  explicit SessionDisk(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r

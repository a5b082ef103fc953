// States as a tier that is no memory writes and reads them: snapshots of this model.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "engine/snapshot/snapshot.h"

namespace t2r {

struct StateCodec {
  ExecutorLimits limits;  // of the executor whose states these are
  std::string exactness_class;

  std::string Write(const SessionState& state) const {
    return WriteSnapshot(state, exactness_class);
  }
  absl::StatusOr<std::shared_ptr<const SessionState>> Read(std::string_view bytes,
                                                           bool allow_inexact) const {
    absl::StatusOr<SessionState> read = ReadSnapshot(bytes, exactness_class, limits, allow_inexact);
    if (!read.ok()) return read.status();
    return std::make_shared<const SessionState>(*std::move(read));
  }
};

}  // namespace t2r

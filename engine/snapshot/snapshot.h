// A session at one position as bytes: to be kept in a store, saved in a file, read by another
// server.
//
// Little-endian: "T2RSNAP" and a zero byte, the version, the length of all, the exactness class,
// the sequence (SessionState) field by field, every list with its length before it, and the CRC-32C
// of all of that. docs/sessions.md has the table.
//
// The exactness class is a text that names what must be equal for the next token to have the same
// bits: the model's fingerprint, backend and instruction set, dtypes (Engine::exactness_class).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "engine/snapshot/session_state.h"

namespace t2r {

inline constexpr uint32_t kSnapshotVersion = 1;

std::string WriteSnapshot(const SessionState& state, const std::string& exactness_class);

// The state, fit to be restored into an executor with these limits. The bytes may come from anyone:
//   INVALID_ARGUMENT     no snapshot, of another version, or with values that no session of this
//                        model can have; names the field
//   DATA_LOSS            cut off, or damaged
//   FAILED_PRECONDITION  of another exactness class; names both
// allow_inexact: another class is taken too, where the shapes fit; its bits are then its own.
absl::StatusOr<SessionState> ReadSnapshot(std::string_view bytes,
                                          const std::string& exactness_class,
                                          const ExecutorLimits& limits, bool allow_inexact = false);

// What a snapshot of a session with so many tokens takes at most, INT64_MAX where that is beyond 64
// bits.
int64_t MaxSnapshotBytes(const ExecutorLimits& limits, int64_t positions);

}  // namespace t2r

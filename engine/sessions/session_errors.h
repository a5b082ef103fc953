// What tiers and the store say of a session.
#pragma once

#include "absl/status/status.h"
#include "engine/sessions/session_info.h"

namespace t2r {

// The payload of an ABORTED that passes by itself: another has the session for now.
inline constexpr char kSessionBusyUrl[] = "t2r/session-busy";

absl::Status NoSession(const SessionKey& key);
absl::Status SessionExists(const SessionKey& key);
absl::Status SessionBusy(const SessionKey& key);
// Of a claim that another has had since.
absl::Status SessionFenced(const SessionKey& key);
// Of a state that a record names.
absl::Status NoState(const SessionKey& key);

}  // namespace t2r

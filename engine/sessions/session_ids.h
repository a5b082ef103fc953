// What a session may be called, and how long it may be kept.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/sessions/session_info.h"

namespace t2r {

// INVALID_ARGUMENT unless it is 1 to 128 letters, digits and "-_.:".
absl::Status CheckSessionId(const std::string& id);
// Nobody guesses it.
std::string MakeUpSessionId();
// INVALID_ARGUMENT unless it is from zero, which stands for a default, to kMaxSessionTtl.
absl::Status CheckSessionTtl(absl::Duration ttl);
// It expires its ttl after now; a ttl above zero is its own from now on.
void UseSession(SessionInfo* info, absl::Duration ttl, absl::Time now);

}  // namespace t2r

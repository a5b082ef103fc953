// What is known of a session beside its state.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace t2r {

struct SessionInfo {
  std::string id;
  int64_t position = 0;  // tokens
  int64_t bytes = 0;     // that it takes in memory
  absl::Time created, used, expires;
  absl::Duration ttl;  // from its last use on
};

}  // namespace t2r

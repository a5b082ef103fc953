// What is known of a session beside its state, and whose it is.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "absl/time/time.h"

namespace t2r {

// What one tenant may have at most; 0: no limit.
struct SessionQuota {
  int64_t max_sessions = 0;
  int64_t max_bytes = 0;  // of their states, as SessionInfo::bytes counts them
};

// Whose sessions a call is about. A tenant sees its own sessions only: another's is not there.
struct SessionOwner {
  std::string name;  // of the API key, or of the client's certificate; empty: nobody is named
  SessionQuota quota;
};

// Ids are a tenant's own: two tenants can have sessions of the same id.
struct SessionKey {
  std::string owner;
  std::string id;

  bool operator<(const SessionKey& other) const {
    return std::tie(owner, id) < std::tie(other.owner, other.id);
  }
  bool operator==(const SessionKey&) const = default;
};

struct SessionInfo {
  std::string owner;
  std::string id;
  int64_t position = 0;  // tokens
  int64_t bytes = 0;     // that it takes in memory
  absl::Time created, used, expires;
  absl::Duration ttl;  // from its last use on

  SessionKey key() const { return {owner, id}; }
};

// Sessions and what they take, of one tenant or of all.
struct SessionUsage {
  int64_t sessions = 0;
  int64_t bytes = 0;
};

}  // namespace t2r

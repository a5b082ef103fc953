// Where a Redis or Valkey server is, and how to talk to it.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace t2r {

struct RedisAddress {
  std::string host;
  std::string port;
  std::string user;      // empty: the default one
  std::string password;  // empty: none is asked for
  int database = 0;
  bool tls = false;

  // For messages: without the password.
  std::string text() const;
};

// redis://[[user]:password@]host:port[/database], or rediss:// for TLS. The user, the password and
// the host may have %XX; an IPv6 host stands in brackets. INVALID_ARGUMENT saying what is wrong,
// never with the password.
absl::StatusOr<RedisAddress> ParseRedisAddress(const std::string& url);

}  // namespace t2r

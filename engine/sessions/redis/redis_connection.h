// One connection to a Redis or Valkey server, over TCP or TLS.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/sessions/redis/redis_address.h"
#include "engine/sessions/redis/redis_reply.h"

namespace t2r {

struct RedisOptions {
  RedisAddress address;
  std::string ca_file;  // authorities of the server's certificate, PEM; empty: the system's
  absl::Duration connect_timeout = absl::Seconds(2);  // TLS and authentication included
  absl::Duration timeout = absl::Seconds(5);          // of a command
  size_t max_reply_bytes = size_t{64} << 20;
  int max_connections = 8;
};

// Not thread-safe. Errors are DEADLINE_EXCEEDED where there was no answer in time, else
// UNAVAILABLE; the connection is then of no use any more.
class RedisConnection {
 public:
  // Connects, checks the server's certificate and name, gives user, password and database, and has
  // an answer: also one that hangs is connected to.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Open(const RedisOptions& options);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // Sends the command and waits for its reply, which may be an error of the server's.
  absl::StatusOr<RedisReply> Call(const std::vector<std::string_view>& command);

 private:
  struct Impl;
  explicit RedisConnection(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r

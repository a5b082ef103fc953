// The HTTP port for operators: /metrics and /healthz.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace t2r::server {

// Serves GET and HEAD of
//   /metrics   the text that `metrics` returns
//   /healthz   200 "ok" while `healthy` returns true, else 503
// from two threads of its own until destruction. Both functions must be thread-safe.
class AdminServer {
 public:
  // address: HOST:PORT; port 0 takes a free one. UNAVAILABLE naming the address if it cannot
  // listen.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& address,
                                                            std::function<std::string()> metrics,
                                                            std::function<bool()> healthy);
  ~AdminServer();

  // HOST:PORT with the port in use.
  const std::string& address() const;

 private:
  struct Impl;
  explicit AdminServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r::server

// The HTTP port for operators: metrics and probes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/io/mutex.h"
#include "server/listener.h"
#include "server/tls.h"
#include "server/tls_stream.h"

namespace t2r::server {

// What the pages ask. All functions must be thread-safe.
struct AdminPages {
  std::function<std::string()> metrics;
  std::function<bool()> ready;  // requests are taken
  std::function<bool()> alive;  // false only where a restart helps
};

// Serves GET and HEAD of exactly
//   /metrics            the text that `metrics` returns
//   /readyz, /healthz   200 "ok" while `ready` returns true, else 503
//   /livez              the same of `alive`
// until destruction.
//
// One thread polls all connections, so that those who say nothing hold nobody up: each has two
// seconds to send its request and two to take its answer, and where 256 are open the oldest makes
// room for a new one. A library with a thread for each connection is stopped by as many clients as
// it has threads.
class AdminServer {
 public:
  // The certificate to show. Thread-safe.
  using Certificates = std::function<std::shared_ptr<const TlsVersion>()>;

  // address: HOST:PORT; port 0 takes a free one. UNAVAILABLE naming the address if it cannot
  // listen. certificates: speaks TLS, with what it gives at each connection's begin; null: none.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& address,
                                                            AdminPages pages,
                                                            Certificates certificates = nullptr);
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // HOST:PORT with the port in use.
  const std::string& address() const { return listener_->address(); }

 private:
  struct Connection;

  AdminServer(AdminPages pages, Certificates certificates)
      : pages_(std::move(pages)), certificates_(std::move(certificates)) {}
  void Run();
  // From the listener's thread.
  void Take(int fd);
  // Reads or writes what can be; false: the connection is over.
  bool Step(Connection* connection);
  // Of a new connection, for the certificate that is there now; null where there is none.
  std::unique_ptr<TlsStream> Secure(int fd);
  std::string Answer(const std::string& request) const;

  const AdminPages pages_;
  const Certificates certificates_;
  std::unique_ptr<TlsContext> tls_;  // Run's; of certificate tls_version_
  int64_t tls_version_ = 0;
  int event_ = -1;  // something is in taken_, or the end
  Mutex mutex_;
  std::vector<int> taken_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Listener> listener_;
  std::thread thread_;
};

}  // namespace t2r::server

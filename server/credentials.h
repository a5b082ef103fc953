// What the gRPC port wants of a connection and of a call, in one place for all services: TLS, a
// client's certificate, an API key.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/io/mutex.h"
#include "server/api_keys.h"
#include "server/file_watch.h"
#include "server/metrics.h"
#include "server/tls.h"

namespace t2r::server {

struct AccessOptions {
  TlsFiles tls;
  std::string api_keys;  // a file of ApiKeys; "": no key is asked for
  // A line about files that were read anew, from a thread of its own; empty: nobody hears it.
  std::function<void(const std::string&)> log;
};

// The API key among a call's headers: x-api-key's, else that of `authorization: Bearer`; of several
// the last.
class KeyHeaders {
 public:
  // `value` must outlive the use of key(). False: the header is about no key.
  bool Add(absl::string_view name, absl::string_view value);
  const std::optional<absl::string_view>& key() const { return own_ ? own_ : bearer_; }

 private:
  std::optional<absl::string_view> own_, bearer_;
};

// Keeps the files in memory and reads them anew when they change; what does not hold together is
// refused, and what was there stays. Thread-safe.
class Access {
 public:
  // INVALID_ARGUMENT in one line where the files are not good to start with. `metrics` must outlive
  // the result.
  static absl::StatusOr<std::shared_ptr<Access>> Open(AccessOptions options, Metrics& metrics);
  ~Access();

  // For one server. A connection without TLS, or without a client's certificate, fails its
  // handshake where they are asked for. A call without a known key in `authorization: Bearer` or
  // `x-api-key` ends with UNAUTHENTICATED before its message is read, whatever its method, but for
  // health.
  static std::shared_ptr<grpc::ServerCredentials> MakeCredentials(std::shared_ptr<Access> access);
  // What a probe must send to be answered: nothing, or a TLS client's first message.
  std::string greeting() const { return options_.tls.enabled() ? TlsClientHello() : ""; }

  // ---- For the credentials ----
  // What is shown now; its version rises with each that is read.
  std::shared_ptr<const TlsVersion> certificates() const;
  // OK or UNAUTHENTICATED. `key`: nothing where the call brings none.
  absl::Status Check(const std::optional<absl::string_view>& key) const;
  // Whose key it is; nothing where it is not known, or no longer.
  std::optional<std::string> NameOf(absl::string_view key) const;
  const AccessOptions& options() const { return options_; }

 private:
  Access(AccessOptions options, Metrics& metrics)
      : options_(std::move(options)), metrics_(metrics) {}
  absl::Status LoadCertificates();
  absl::Status LoadKeys();
  void Reload(const std::string& what, const std::function<absl::Status()>& load);

  const AccessOptions options_;
  Metrics& metrics_;
  mutable Mutex mutex_;
  std::shared_ptr<const TlsVersion> certificates_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const ApiKeys> keys_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FileWatch> certificate_watch_;
  std::unique_ptr<FileWatch> key_watch_;
};

}  // namespace t2r::server

// The server's end of TLS over a socket that does not block.
#pragma once

#include <openssl/types.h>
#include <sys/types.h>

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "server/tls.h"

namespace t2r::server {

// A certificate and key, for any number of streams. TLS 1.2 and 1.3; clients show no certificate.
class TlsContext {
 public:
  // INTERNAL where OpenSSL takes not what ReadTls has found good.
  static absl::StatusOr<std::unique_ptr<TlsContext>> Make(const TlsMaterial& material);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsStream;
  explicit TlsContext(SSL_CTX* context) : context_(context) {}
  SSL_CTX* const context_;
};

// One connection, from its handshake on. May outlive its context. Not thread-safe.
class TlsStream {
 public:
  // fd stays the caller's.
  TlsStream(const TlsContext& context, int fd);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // Bytes that were read or written; 0: the connection is over; -1: to be tried again once the
  // socket is ready for events().
  ssize_t Read(char* to, size_t size);
  ssize_t Write(const char* from, size_t size);
  // POLLIN or POLLOUT.
  short events() const { return events_; }

 private:
  ssize_t Result(int result);
  SSL* const stream_;
  short events_;
};

}  // namespace t2r::server

#include "server/tls_stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>

#include <algorithm>
#include <climits>
#include <memory>

namespace t2r::server {

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Make(const TlsMaterial& material) {
  std::unique_ptr<TlsContext> made(new TlsContext(SSL_CTX_new(TLS_server_method())));
  SSL_CTX_set_min_proto_version(made->context_, TLS1_2_VERSION);
  SSL_CTX_set_mode(made->context_, SSL_MODE_ENABLE_PARTIAL_WRITE);
  if (!UseTls(material, made->context_)) {
    return absl::InternalError("OpenSSL refuses the certificate or its key");
  }
  return made;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

TlsStream::TlsStream(const TlsContext& context, int fd)
    : stream_(SSL_new(context.context_)), events_(POLLIN) {
  SSL_set_fd(stream_, fd);
  SSL_set_accept_state(stream_);
}

TlsStream::~TlsStream() {
  ERR_clear_error();
  if (SSL_is_init_finished(stream_) == 1) SSL_shutdown(stream_);  // says that nothing more comes
  ERR_clear_error();
  SSL_free(stream_);
}

ssize_t TlsStream::Read(char* to, size_t size) {
  ERR_clear_error();
  return Result(SSL_read(stream_, to, static_cast<int>(std::min<size_t>(size, INT_MAX))));
}

ssize_t TlsStream::Write(const char* from, size_t size) {
  ERR_clear_error();
  return Result(SSL_write(stream_, from, static_cast<int>(std::min<size_t>(size, INT_MAX))));
}

ssize_t TlsStream::Result(int result) {
  if (result > 0) return result;
  const int error = SSL_get_error(stream_, result);
  ERR_clear_error();
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
    events_ = error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
    return -1;
  }
  return 0;
}

}  // namespace t2r::server

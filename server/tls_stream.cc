#include "server/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>

#include <algorithm>
#include <climits>
#include <memory>

namespace t2r::server {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;

Bio Over(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// The server's certificate, and what leads from it to its authority.
bool UseCertificates(const std::string& pem, SSL_CTX* context) {
  const Bio bio = Over(pem);
  int count = 0;
  bool good = true;
  while (X509* one = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    good = good && (count++ == 0 ? SSL_CTX_use_certificate(context, one)
                                 : SSL_CTX_add1_chain_cert(context, one)) == 1;
    X509_free(one);
  }
  return good && count > 0;
}

bool UseKey(const std::string& pem, SSL_CTX* context) {
  const Bio bio = Over(pem);
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr);
  const bool good = key != nullptr && SSL_CTX_use_PrivateKey(context, key) == 1;
  EVP_PKEY_free(key);
  return good;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Make(const TlsMaterial& material) {
  std::unique_ptr<TlsContext> made(new TlsContext(SSL_CTX_new(TLS_server_method())));
  SSL_CTX_set_min_proto_version(made->context_, TLS1_2_VERSION);
  SSL_CTX_set_mode(made->context_, SSL_MODE_ENABLE_PARTIAL_WRITE);
  const bool good =
      UseCertificates(material.certificate, made->context_) && UseKey(material.key, made->context_);
  ERR_clear_error();
  if (!good) return absl::InternalError("OpenSSL refuses the certificate or its key");
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

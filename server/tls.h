// Certificates and keys in PEM, read and checked before anything uses them.
#pragma once

#include <openssl/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace t2r::server {

struct TlsFiles {
  std::string certificate;  // the server's, with what leads to its authority; "": no TLS
  std::string key;          // its private key, without a passphrase
  std::string client_ca;  // authorities of clients' certificates, which are then demanded; "": none

  bool enabled() const { return !certificate.empty(); }
};

// The files' contents.
struct TlsMaterial {
  std::string certificate;
  std::string key;
  std::string client_ca;
  absl::Time expiry;  // of the server's certificate
};

// The same, and the how-manieth it is.
struct TlsVersion {
  TlsMaterial material;
  int64_t version = 0;
};

// INVALID_ARGUMENT in one line that names the file where one cannot be read or is no PEM, the key
// is not the certificate's, or the certificate has ended.
absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files);

// Gives a TLS context the server's certificate, with what leads to its authority, and the key.
// False where OpenSSL refuses them.
bool UseTls(const TlsMaterial& material, SSL_CTX* context);

// The first message of a TLS client, which any TLS server answers: what a probe sends.
std::string TlsClientHello();

}  // namespace t2r::server

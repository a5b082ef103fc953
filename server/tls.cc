#include "server/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/io/files.h"

namespace t2r::server {
namespace {

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<&BIO_free>>;
using Certificate = std::unique_ptr<X509, Freer<&X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<&EVP_PKEY_free>>;

// A key with a passphrase is an error, not a question on the terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) { return -1; }

Bio Over(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

std::vector<Certificate> Certificates(const std::string& pem) {
  std::vector<Certificate> found;
  const Bio bio = Over(pem);
  while (X509* one = PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)) {
    found.emplace_back(one);
  }
  ERR_clear_error();
  return found;
}

// Null where there is none without a passphrase.
Key PrivateKey(const std::string& pem) {
  const Bio bio = Over(pem);
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  return key;
}

absl::Time EndOf(const X509& certificate) {
  std::tm end = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &end) != 1) return absl::InfinitePast();
  return absl::FromCivil(absl::CivilSecond(end.tm_year + 1900, end.tm_mon + 1, end.tm_mday,
                                           end.tm_hour, end.tm_min, end.tm_sec),
                         absl::UTCTimeZone());
}

absl::Status Wrong(const std::string& flag, const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", path, ": ", why));
}

absl::Status Read(const std::string& flag, const std::string& path, std::string* content) {
  absl::StatusOr<std::string> read = ReadTextFile(path);
  if (!read.ok()) return Wrong(flag, path, "cannot be read");
  *content = *std::move(read);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files) {
  TlsMaterial made;
  if (absl::Status s = Read("--tls-cert", files.certificate, &made.certificate); !s.ok()) return s;
  if (absl::Status s = Read("--tls-key", files.key, &made.key); !s.ok()) return s;
  const std::vector<Certificate> chain = Certificates(made.certificate);
  if (chain.empty()) return Wrong("--tls-cert", files.certificate, "holds no certificate in PEM");
  const Key key = PrivateKey(made.key);
  if (key == nullptr) {
    return Wrong("--tls-key", files.key, "holds no private key in PEM without a passphrase");
  }
  const bool match = X509_check_private_key(chain.front().get(), key.get()) == 1;
  ERR_clear_error();
  if (!match) {
    return Wrong("--tls-key", files.key,
                 absl::StrCat("is not the key of the certificate in ", files.certificate));
  }
  made.expiry = EndOf(*chain.front());
  if (made.expiry <= absl::Now()) {
    return Wrong("--tls-cert", files.certificate,
                 absl::StrCat("ended at ", absl::FormatTime(made.expiry, absl::UTCTimeZone())));
  }
  if (!files.client_ca.empty()) {
    if (absl::Status s = Read("--tls-client-ca", files.client_ca, &made.client_ca); !s.ok()) {
      return s;
    }
    if (Certificates(made.client_ca).empty()) {
      return Wrong("--tls-client-ca", files.client_ca, "holds no certificate in PEM");
    }
  }
  return made;
}

bool UseTls(const TlsMaterial& material, SSL_CTX* context) {
  const std::vector<Certificate> chain = Certificates(material.certificate);
  const Key key = PrivateKey(material.key);
  bool good = !chain.empty() && key != nullptr &&
              SSL_CTX_use_certificate(context, chain.front().get()) == 1 &&
              SSL_CTX_use_PrivateKey(context, key.get()) == 1;
  for (size_t i = 1; i < chain.size(); ++i) {
    good = good && SSL_CTX_add1_chain_cert(context, chain[i].get()) == 1;
  }
  ERR_clear_error();
  return good;
}

std::string TlsClientHello() {
  using Context = std::unique_ptr<SSL_CTX, Freer<&SSL_CTX_free>>;
  using Session = std::unique_ptr<SSL, Freer<&SSL_free>>;
  const Context context(SSL_CTX_new(TLS_client_method()));
  const Session session(SSL_new(context.get()));
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(session.get(), BIO_new(BIO_s_mem()), out);  // both are the session's now
  static constexpr unsigned char kHttp2[] = {2, 'h', '2'};
  SSL_set_alpn_protos(session.get(), kHttp2, sizeof(kHttp2));
  SSL_connect(session.get());  // writes the message and then waits for what does not come
  ERR_clear_error();
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  return {data, static_cast<size_t>(size)};
}

}  // namespace t2r::server

#include "server/credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/io/files.h"

namespace t2r::server {
namespace {

constexpr absl::Duration kLookInterval = absl::Seconds(1);
constexpr absl::string_view kHealth = "/grpc.health.v1.Health/";

absl::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// gRPC asks before each handshake whether there is anything new.
struct CertificateFetcher {
  std::shared_ptr<Access> access;
  int64_t given = 0;

  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    auto* fetcher = static_cast<CertificateFetcher*>(self);
    const std::shared_ptr<const TlsVersion> now = fetcher->access->certificates();
    if (now->version == fetcher->given) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const TlsMaterial& material = now->material;
    const grpc_ssl_pem_key_cert_pair pair = {material.key.c_str(), material.certificate.c_str()};
    // gRPC wants authorities even where it asks clients for no certificate, and then has no use for
    // them.
    const std::string& roots =
        material.client_ca.empty() ? material.certificate : material.client_ca;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    fetcher->given = now->version;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }
};

// gRPC asks once a call's headers are there.
struct KeyChecker {
  std::shared_ptr<Access> access;

  static void Process(void* self, grpc_auth_context* /*connection*/, const grpc_metadata* headers,
                      size_t count, grpc_process_auth_metadata_done_cb done, void* data) {
    const std::shared_ptr<Access>& access = static_cast<KeyChecker*>(self)->access;
    bool health = false;
    KeyHeaders keys;
    for (size_t i = 0; i < count; ++i) {
      const absl::string_view name = View(headers[i].key);
      const absl::string_view value = View(headers[i].value);
      if (name == ":path") health = absl::StartsWith(value, kHealth);
      keys.Add(name, value);
    }
    const absl::Status status = health ? absl::OkStatus() : access->Check(keys.key());
    // The key stays where it is: gRPC takes no headers from here, and TenantOf asks for its name.
    done(data, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
         std::string(status.message()).c_str());
  }
  static void Destroy(void* self) { delete static_cast<KeyChecker*>(self); }
};

// gRPC's C++ wrappers offer certificates that change only where nothing checks that they match.
class Credentials final : public grpc::ServerCredentials {
 public:
  explicit Credentials(std::shared_ptr<Access> access) : fetcher_{access} {
    const AccessOptions& options = access->options();
    if (options.tls.enabled()) {
      credentials_ = grpc_ssl_server_credentials_create_with_options(
          grpc_ssl_server_credentials_create_options_using_config_fetcher(
              options.tls.client_ca.empty()
                  ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                  : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
              CertificateFetcher::Fetch, &fetcher_));
    } else {
      credentials_ = grpc_insecure_server_credentials_create();
    }
    if (!options.api_keys.empty()) {
      grpc_server_credentials_set_auth_metadata_processor(
          credentials_, {.process = KeyChecker::Process,
                         .destroy = KeyChecker::Destroy,
                         .state = new KeyChecker{std::move(access)}});
    }
  }
  ~Credentials() override { grpc_server_credentials_release(credentials_); }
  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  CertificateFetcher fetcher_;
  grpc_server_credentials* credentials_ = nullptr;
};

}  // namespace

bool KeyHeaders::Add(absl::string_view name, absl::string_view value) {
  const bool bearer = name == "authorization" && absl::StartsWithIgnoreCase(value, "Bearer ");
  if (!bearer && name != "x-api-key") return false;
  if (bearer) value.remove_prefix(strlen("Bearer "));
  (bearer ? bearer_ : own_) = value;
  return true;
}

absl::StatusOr<std::shared_ptr<Access>> Access::Open(AccessOptions options, Metrics& metrics) {
  std::shared_ptr<Access> access(new Access(std::move(options), metrics));
  Access* self = access.get();
  const TlsFiles& tls = self->options_.tls;
  if (tls.enabled()) {
    std::vector<std::string> paths = {tls.certificate, tls.key};
    if (!tls.client_ca.empty()) paths.push_back(tls.client_ca);
    FileStamp seen = StampOf(paths);
    if (absl::Status s = self->LoadCertificates(); !s.ok()) return s;
    self->certificate_watch_ = std::make_unique<FileWatch>(
        std::move(paths), std::move(seen), kLookInterval,
        [self] { self->Reload("certificate", [self] { return self->LoadCertificates(); }); });
  }
  if (!self->options_.api_keys.empty()) {
    FileStamp seen = StampOf({self->options_.api_keys});
    if (absl::Status s = self->LoadKeys(); !s.ok()) return s;
    self->key_watch_ = std::make_unique<FileWatch>(
        std::vector<std::string>{self->options_.api_keys}, std::move(seen), kLookInterval,
        [self] { self->Reload("keys", [self] { return self->LoadKeys(); }); });
  }
  return access;
}

// The watches call functions of this object from their threads, and go before what those use.
Access::~Access() {
  certificate_watch_.reset();
  key_watch_.reset();
}

std::shared_ptr<grpc::ServerCredentials> Access::MakeCredentials(std::shared_ptr<Access> access) {
  return std::make_shared<Credentials>(std::move(access));
}

std::shared_ptr<const TlsVersion> Access::certificates() const {
  const MutexLock lock(mutex_);
  return certificates_;
}

absl::Status Access::LoadCertificates() {
  absl::StatusOr<TlsMaterial> material = ReadTls(options_.tls);
  if (!material.ok()) return material.status();
  metrics_.SetCertificateExpiry(material->expiry);
  const MutexLock lock(mutex_);
  const int64_t version = certificates_ == nullptr ? 1 : certificates_->version + 1;
  certificates_ = std::make_shared<TlsVersion>(TlsVersion{*std::move(material), version});
  return absl::OkStatus();
}

absl::Status Access::LoadKeys() {
  const std::string& path = options_.api_keys;
  absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--api-keys ", path, ": cannot be read"));
  }
  absl::StatusOr<ApiKeys> keys = ApiKeys::Parse(*text);
  if (!keys.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--api-keys ", path, ": ", keys.status().message()));
  }
  metrics_.SetApiKeys(static_cast<int64_t>(keys->size()));
  const MutexLock lock(mutex_);
  keys_ = std::make_shared<ApiKeys>(*std::move(keys));
  return absl::OkStatus();
}

void Access::Reload(const std::string& what, const std::function<absl::Status()>& load) {
  const absl::Status status = load();
  metrics_.OnReload(what, status.ok());
  if (!options_.log) return;
  options_.log(status.ok() ? absl::StrCat(what, ": read anew")
                           : absl::StrCat(status.message(), "; the old ", what, " stay in use"));
}

std::optional<std::string> Access::NameOf(absl::string_view key) const {
  std::shared_ptr<const ApiKeys> keys;
  {
    const MutexLock lock(mutex_);
    keys = keys_;
  }
  const std::string* name = keys == nullptr ? nullptr : keys->NameOf(key);
  return name == nullptr ? std::nullopt : std::optional(*name);
}

absl::Status Access::Check(const std::optional<absl::string_view>& key) const {
  if (key && NameOf(*key)) return absl::OkStatus();
  metrics_.OnRefused(absl::StatusCode::kUnauthenticated);
  return absl::UnauthenticatedError(
      !key ? "this server wants an API key, as authorization: Bearer KEY or x-api-key: KEY"
           : "the API key is not known here");
}

}  // namespace t2r::server

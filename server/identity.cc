#include "server/identity.h"

#include <grpc/grpc_security_constants.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "server/credentials.h"

namespace t2r::server {
namespace {

constexpr size_t kMaxNameBytes = 256;

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return absl::ascii_isgraph(c); }) &&
         name != kRevokedTenant;
}

absl::string_view View(const grpc::string_ref& text) { return {text.data(), text.size()}; }

std::string NameInCertificate(const grpc::CallbackServerContext& rpc) {
  const std::shared_ptr<const grpc::AuthContext> connection = rpc.auth_context();
  if (connection == nullptr || !connection->IsPeerAuthenticated()) return "";
  for (const char* property : {GRPC_PEER_SPIFFE_ID_PROPERTY_NAME, GRPC_X509_SAN_PROPERTY_NAME}) {
    for (const grpc::string_ref& value : connection->FindPropertyValues(property)) {
      if (IsName(View(value))) return std::string(View(value));
    }
  }
  return "";
}

}  // namespace

std::string TenantOf(const CallContext& context, const grpc::CallbackServerContext& rpc) {
  const AccessOptions& options = context.access.options();
  if (options.api_keys.empty()) {
    return options.tls.client_ca.empty() ? "" : NameInCertificate(rpc);
  }
  KeyHeaders headers;
  for (const auto& [name, value] : rpc.client_metadata()) headers.Add(View(name), View(value));
  const std::optional<std::string> name =
      headers.key() ? context.access.NameOf(*headers.key()) : std::nullopt;
  return name ? *name : std::string(kRevokedTenant);
}

}  // namespace t2r::server

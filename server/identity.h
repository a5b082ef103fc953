// Who a call is counted, limited and logged under.
#pragma once

#include <grpcpp/server_context.h>

#include <string>

#include "absl/strings/string_view.h"
#include "server/call_context.h"

namespace t2r::server {

// What TenantOf gives where the call's key was known when the call came and is no longer: a name
// that neither a file of keys nor a certificate can have.
inline constexpr absl::string_view kRevokedTenant = "(revoked)";

// The tenant of a call: the name of its API key where the server asks for keys; else, where clients
// show certificates, the certificate's SPIFFE id, or its first subject alternative name; "" where
// nobody is named. Names of certificates are 1 to 256 printable ASCII characters without spaces;
// others count as none.
//
// From the reaction. Hashes the key, some microseconds: call it once for each RPC.
std::string TenantOf(const CallContext& context, const grpc::CallbackServerContext& rpc);

}  // namespace t2r::server

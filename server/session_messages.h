// Between the messages of t2r.v1.Sessions and the engine's sessions.
#pragma once

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sessions/session_store.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/served_model.h"
#include "t2r/v1/sessions.pb.h"

namespace t2r::server {

// Whose sessions a call is about: its tenant's, with what that may have.
SessionOwner OwnerOf(const CallRecord& record);
// The same, from the reaction.
SessionOwner OwnerOf(const CallContext& context, const grpc::CallbackServerContext& rpc);

void ToProto(const SessionInfo& session, v1::Session* out);

// Zero where it is not set. INVALID_ARGUMENT for what is no duration above 0.
absl::StatusOr<absl::Duration> TtlOf(bool set, const google::protobuf::Duration& ttl);

absl::StatusOr<SessionStore::TurnRequest> FromProto(const v1::SessionRef& session);

// FAILED_PRECONDITION where the server keeps no sessions.
absl::Status CheckKeepsSessions(const ServedModel& model);

}  // namespace t2r::server

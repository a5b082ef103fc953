// Between the client's plain structs and the protocol's messages; internal to client/.
#ifndef T2R_CLIENT_WIRE_H_
#define T2R_CLIENT_WIRE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/types.h"
#include "t2r/v1/generation.pb.h"
#include "t2r/v1/sessions.pb.h"

namespace t2r::client {

v1::GenerateRequest ToProto(const GenerateRequest& request);
// source: null for models that have none.
v1::ScoreRequest ToScoreProto(const Prompt* source, const Prompt& target);

// nullopt: an event this client does not know, to be skipped.
std::optional<Event> FromProto(const v1::GenerateResponse& response);
ScoreResult FromProto(const v1::ScoreResponse& response);
ModelInfo FromProto(const v1::GetModelResponse& response);

SessionInfo FromProto(const v1::Session& session);
void ToProto(absl::Duration from, google::protobuf::Duration* to);

// details: the serialised google.rpc.Status of the grpc-status-details-bin trailer, or empty. Its
// details become the status's payloads, under their type URLs.
absl::Status MakeStatus(int code, const std::string& message, const std::string& details);

// INVALID_ARGUMENT naming the field and the byte of the first text that is not valid UTF-8. A
// server could not even parse such a message.
absl::Status CheckTexts(const google::protobuf::Message& message);

}  // namespace t2r::client

#endif  // T2R_CLIENT_WIRE_H_

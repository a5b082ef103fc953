// Protobuf messages in gRPC's byte buffers. The services take and give bytes, so that a message
// that does not parse gets an answer of ours, and its memory can be freed before the RPC ends.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

namespace t2r::server {

// INVALID_ARGUMENT naming field and byte where `bytes` are no such message.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message);

// The message of a request, taken out of gRPC's hands, which would keep it until the RPC has ended.
grpc::ByteBuffer TakeMessage(const grpc::ByteBuffer* request);

}  // namespace t2r::server

#include "server/messages.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <string>
#include <vector>

#include "server/wire_errors.h"

namespace t2r::server {
namespace {

absl::Status Explain(const grpc::ByteBuffer& bytes, const google::protobuf::Message& message) {
  std::vector<grpc::Slice> slices;
  std::string flat;
  if (bytes.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  absl::Status status = CheckWire(flat, *message.GetDescriptor());
  if (!status.ok()) return status;
  return absl::InvalidArgumentError("the request is not a message of t2r/v1");
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::ByteBuffer copy = bytes;               // of the references, not of the bytes
  if (!copy.Valid()) return absl::OkStatus();  // an empty message
  grpc::ProtoBufferReader reader(&copy);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return Explain(bytes, *message);
}

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message) {
  constexpr int kBlock = 1 << 20;
  grpc::ByteBuffer bytes;
  const int size = static_cast<int>(message.ByteSizeLong());
  if (size == 0) {
    const grpc::Slice empty;
    return grpc::ByteBuffer(&empty, 1);
  }
  grpc::ProtoBufferWriter writer(&bytes, std::min(size, kBlock), size);
  message.SerializeToZeroCopyStream(&writer);
  return bytes;
}

grpc::ByteBuffer TakeMessage(const grpc::ByteBuffer* request) {
  grpc::ByteBuffer taken;
  // gRPC makes the object for this call alone and only destroys it afterwards.
  taken.Swap(const_cast<grpc::ByteBuffer*>(request));
  return taken;
}

}  // namespace t2r::server

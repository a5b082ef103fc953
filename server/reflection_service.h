// grpc.reflection.v1alpha, our own: gRPC's takes a thread for each open stream.
#pragma once

#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "server/call_context.h"

namespace t2r::server {

// Describes the services of this server. Takes and gives bytes; see messages.h. No threads.
class ReflectionService final : public grpc::reflection::v1alpha::ServerReflection::
                                    WithRawCallbackMethod_ServerReflectionInfo<
                                        grpc::reflection::v1alpha::ServerReflection::Service> {
 public:
  // `context` must outlive the service and every RPC.
  explicit ReflectionService(CallContext& context) : context_(context) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServerReflectionInfo(
      grpc::CallbackServerContext* rpc) override;

 private:
  CallContext& context_;
};

}  // namespace t2r::server

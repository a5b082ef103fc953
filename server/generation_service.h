// The t2r.v1.Generation service.
#pragma once

#include "server/call_context.h"
#include "t2r/v1/generation.grpc.pb.h"

namespace t2r::server {

// All methods take and give bytes; see messages.h.
using RawGeneration = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_Score<v1::Generation::WithRawCallbackMethod_Tokenize<
        v1::Generation::WithRawCallbackMethod_Detokenize<
            v1::Generation::WithRawCallbackMethod_GetModel<v1::Generation::Service>>>>>;

// Reactions only: each returns at once, and what takes time happens on the engine thread or a
// worker.
class GenerationService final : public RawGeneration {
 public:
  // `context` must outlive the service and every RPC.
  explicit GenerationService(CallContext& context) : context_(context) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* rpc,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* rpc,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* rpc,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* rpc,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  CallContext& context_;
};

}  // namespace t2r::server

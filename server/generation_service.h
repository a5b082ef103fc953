// The t2r.v1.Generation service.
#pragma once

#include "server/call_context.h"
#include "t2r/v1/generation.grpc.pb.h"

namespace t2r::server {

// Reactions only: each returns at once, and what takes time happens on the engine thread or a
// worker.
class GenerationService final : public v1::Generation::CallbackService {
 public:
  // `context` must outlive the service and every RPC.
  explicit GenerationService(CallContext& context) : context_(context) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* rpc, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* rpc, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* rpc,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* rpc,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* rpc,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  CallContext& context_;
};

}  // namespace t2r::server

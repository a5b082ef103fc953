// One Score RPC.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <vector>

#include "server/engine_call.h"
#include "server/unary_end.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// Takes the same road as Generate; scored in chunks beside the generating sessions.
class ScoreCall final : public grpc::ServerUnaryReactor, public EngineCall {
 public:
  // The reaction. `response` is valid until OnDone.
  static grpc::ServerUnaryReactor* Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

  void OnCancel() override;
  void OnDone() override;

  void OnStarted(size_t /*together*/) override {}
  Room RoomFor(int64_t /*tokens*/) override { return {}; }
  void OnToken(const TokenEvent& /*event*/) override {}
  void OnFinished(FinishEvent event) override;

 private:
  ScoreCall(CallContext& context, grpc::CallbackServerContext& rpc, grpc::ByteBuffer* response)
      : EngineCall(context, rpc, "t2r.v1.Generation/Score"),
        end_(context, guard_, &record_, *this, response) {}

  absl::StatusOr<PreparedRequest> Read(const grpc::ByteBuffer& message) override;
  bool Ready(Request& request) override;
  void Refuse(const absl::Status& status) override;

  UnaryEnd end_;
  std::vector<int32_t> ids_;          // that are scored, and for other models the first
  std::shared_ptr<EngineCall> self_;  // until OnDone
};

}  // namespace t2r::server

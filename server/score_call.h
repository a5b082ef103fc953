// One Score RPC.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "server/call_context.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// Takes the same road as Generate: validated and reserved in the reaction, tokenised on a worker,
// scored in chunks beside the generating sessions. Finish is called once, by whoever ends it first:
// a refusal, the scheduler's OnFinished, or OnCancel.
class ScoreCall final : public grpc::ServerUnaryReactor,
                        public EventSink,
                        public std::enable_shared_from_this<ScoreCall> {
 public:
  // The reaction. `request` and `response` are valid until OnDone.
  static grpc::ServerUnaryReactor* Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                         const v1::ScoreRequest* request,
                                         v1::ScoreResponse* response);

  void OnCancel() override;
  void OnDone() override;

  void OnStarted() override {}
  bool HasRoom(int64_t /*tokens*/) override { return true; }
  void OnToken(TokenEvent /*event*/) override {}
  void OnFinished(FinishEvent event) override;

 private:
  ScoreCall(CallContext& context, grpc::CallbackServerContext* rpc, v1::ScoreResponse* response)
      : context_(context), rpc_(rpc), response_(response) {}

  void Begin(const v1::ScoreRequest& request);
  void Submit(Request request, Scheduler::Reservation reservation);
  void Refuse(const absl::Status& status);
  // Takes the right to finish (and with it to touch *response_); false if it is gone.
  bool TakeFinish();

  CallContext& context_;
  grpc::CallbackServerContext* const rpc_;
  v1::ScoreResponse* const response_;
  ServedModel* model_ = nullptr;
  absl::Time deadline_;
  std::vector<int32_t> ids_;         // that are scored, and for other models the first
  std::shared_ptr<ScoreCall> self_;  // until OnDone

  std::mutex mutex_;
  std::optional<RequestId> id_;
  bool cancelled_ = false;
  bool finishing_ = false;
};

}  // namespace t2r::server

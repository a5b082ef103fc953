#include "server/score_call.h"

#include <utility>

#include "server/messages.h"

namespace t2r::server {

grpc::ServerUnaryReactor* ScoreCall::Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) {
  std::shared_ptr<ScoreCall> call(new ScoreCall(context, *rpc, response));
  call->self_ = call;
  call->Begin(TakeMessage(request));
  return call.get();
}

absl::StatusOr<PreparedRequest> ScoreCall::Read(const grpc::ByteBuffer& message) {
  v1::ScoreRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return s;
  record_.KeepPrompt(request.text());
  return MakeRequest(request, *model_);
}

bool ScoreCall::Ready(Request& request) {
  // An encoder-decoder's start token is not the client's.
  ids_.assign(request.prompt.begin() + (request.source.empty() ? 0 : 1), request.prompt.end());
  if (!ScoresNothing(request)) return true;
  v1::ScoreResponse response;
  FromIds(ids_, response.mutable_tokens());
  end_.Answer(response);
  return false;
}

void ScoreCall::Refuse(const absl::Status& status) {
  context_.metrics.OnRefused(status.code());
  end_.Fail(status);
}

void ScoreCall::OnFinished(FinishEvent event) {
  record_.OnFinished(event);
  if (event.reason != FinishReason::kScored) {
    return end_.Fail(event.status.ok() ? absl::InternalError("the request was not scored")
                                       : event.status);
  }
  // A long answer takes time to serialise: not the engine thread's.
  const auto cost = static_cast<int64_t>(ids_.size());
  context_.workers.Post(
      cost, [this, self = shared_from_this(), ended = std::move(event)](bool dropped) {
        if (dropped) return end_.Fail(absl::UnavailableError("the server is shutting down"));
        v1::ScoreResponse response;
        response.mutable_logprobs()->Assign(ended.scores.begin(), ended.scores.end());
        FromIds(ids_, response.mutable_tokens());
        end_.Answer(response);
      });
}

void ScoreCall::OnCancel() {
  CancelRequest();
  end_.Cancel();
}

void ScoreCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<EngineCall> self = std::move(self_);
}

}  // namespace t2r::server

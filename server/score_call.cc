#include "server/score_call.h"

#include <string>
#include <utility>

#include "server/requests.h"
#include "server/status.h"

namespace t2r::server {

grpc::ServerUnaryReactor* ScoreCall::Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                           const v1::ScoreRequest* request,
                                           v1::ScoreResponse* response) {
  std::shared_ptr<ScoreCall> call(new ScoreCall(context, rpc, response));
  call->self_ = call;
  call->Begin(*request);
  return call.get();
}

void ScoreCall::Begin(const v1::ScoreRequest& request) {
  absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return Refuse(model.status());
  model_ = *model;
  absl::StatusOr<PreparedRequest> made = MakeRequest(request, *model_);
  if (!made.ok()) return Refuse(made.status());
  deadline_ = DeadlineOf(rpc_->deadline());
  made->request.deadline = deadline_;

  absl::StatusOr<Scheduler::Reservation> reservation =
      model_->scheduler->Reserve(made->queue_bound());
  if (!reservation.ok()) return Refuse(reservation.status());
  if (made->complete()) return Submit(std::move(made->request), *std::move(reservation));

  // std::function wants what it holds to be copyable.
  auto held = std::make_shared<std::pair<PreparedRequest, Scheduler::Reservation>>(
      *std::move(made), *std::move(reservation));
  context_.workers.Post([self = shared_from_this(), held] {
    {
      const std::lock_guard lock(self->mutex_);
      if (self->cancelled_) return;
    }
    absl::StatusOr<Request> complete = Complete(std::move(held->first), *self->model_);
    if (!complete.ok()) return self->Refuse(complete.status());
    self->Submit(*std::move(complete), std::move(held->second));
  });
}

void ScoreCall::Submit(Request request, Scheduler::Reservation reservation) {
  // An encoder-decoder's start token is not the client's.
  ids_.assign(request.prompt.begin() + (request.source.empty() ? 0 : 1), request.prompt.end());
  if (ScoresNothing(request)) {
    if (!TakeFinish()) return;
    FromIds(ids_, response_->mutable_tokens());
    return Finish(grpc::Status::OK);
  }
  absl::StatusOr<RequestId> id =
      model_->scheduler->Submit(std::move(reservation), std::move(request), shared_from_this());
  if (!id.ok()) return Refuse(id.status());
  bool cancelled;
  {
    const std::lock_guard lock(mutex_);
    id_ = *id;
    cancelled = cancelled_;
  }
  if (cancelled) model_->scheduler->Cancel(*id);
}

void ScoreCall::Refuse(const absl::Status& status) {
  context_.metrics.OnRefused(status.code());
  if (!TakeFinish()) return;
  Finish(absl::IsResourceExhausted(status) ? ToGrpcStatus(status, context_.metrics.RetryDelay())
                                           : ToGrpcStatus(status));
}

bool ScoreCall::TakeFinish() {
  const std::lock_guard lock(mutex_);
  return !std::exchange(finishing_, true);
}

void ScoreCall::OnFinished(FinishEvent event) {
  // A long answer takes time to serialise: not the engine thread's.
  context_.workers.Post([self = shared_from_this(), ended = std::move(event)] {
    if (!self->TakeFinish()) return;
    if (ended.reason != FinishReason::kScored) {
      return self->Finish(ToGrpcStatus(
          ended.status.ok() ? absl::InternalError("the request was not scored") : ended.status));
    }
    self->response_->mutable_logprobs()->Assign(ended.scores.begin(), ended.scores.end());
    FromIds(self->ids_, self->response_->mutable_tokens());
    self->Finish(grpc::Status::OK);
  });
}

void ScoreCall::OnCancel() {
  std::optional<RequestId> id;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    id = id_;
  }
  if (id && !HasPassed(deadline_)) model_->scheduler->Cancel(*id);
  if (TakeFinish()) Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
}

void ScoreCall::OnDone() { const std::shared_ptr<ScoreCall> self = std::move(self_); }

}  // namespace t2r::server

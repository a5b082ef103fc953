#include "server/generate_call.h"

#include <utility>

#include "server/status.h"

namespace t2r::server {

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateCall::Start(
    CallContext& context, grpc::CallbackServerContext* rpc, const v1::GenerateRequest* request) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(context, rpc));
  call->self_ = call;
  call->Begin(*request);
  return call.get();
}

GenerateCall::GenerateCall(CallContext& context, grpc::CallbackServerContext* rpc)
    : context_(context), rpc_(rpc), outbox_(context.outbox) {}

void GenerateCall::Begin(const v1::GenerateRequest& request) {
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
    self->Tokenise(std::move(held->first), std::move(held->second));
  });
}

void GenerateCall::Tokenise(PreparedRequest prepared, Scheduler::Reservation reservation) {
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return;  // the reservation goes back
  }
  absl::StatusOr<Request> request = Complete(std::move(prepared), *model_);
  if (!request.ok()) return Refuse(request.status());
  Submit(*std::move(request), std::move(reservation));
}

void GenerateCall::Submit(Request request, Scheduler::Reservation reservation) {
  started_.set_seed(request.sampling.seed);
  started_.set_prompt_tokens(static_cast<uint32_t>(request.queue_tokens()));
  started_.set_max_tokens(static_cast<uint32_t>(request.max_tokens));
  absl::StatusOr<RequestId> id =
      model_->scheduler->Submit(std::move(reservation), std::move(request), shared_from_this());
  if (!id.ok()) return Refuse(id.status());
  bool cancelled;
  {
    const std::lock_guard lock(mutex_);
    id_ = *id;
    cancelled = cancelled_;
  }
  if (cancelled) model_->scheduler->Cancel(*id);  // OnCancel came before there was an id
}

void GenerateCall::Refuse(const absl::Status& status) {
  context_.metrics.OnRefused(status.code());
  {
    const std::lock_guard lock(mutex_);
    if (finishing_) return;
    finishing_ = true;
  }
  Finish(absl::IsResourceExhausted(status) ? ToGrpcStatus(status, context_.metrics.RetryDelay())
                                           : ToGrpcStatus(status));
}

void GenerateCall::OnStarted() {
  std::unique_lock lock(mutex_);
  outbox_.PushStarted(started_);
  Schedule(std::move(lock));
}

bool GenerateCall::HasRoom(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  if (cancelled_ || outbox_.HasRoom(tokens)) return true;
  waiting_ = true;
  return false;
}

void GenerateCall::OnToken(TokenEvent event) {
  std::unique_lock lock(mutex_);
  if (cancelled_) return;
  outbox_.PushToken(event);
  Schedule(std::move(lock));
}

void GenerateCall::OnFinished(FinishEvent event) {
  if (event.reason == FinishReason::kStalled) {
    context_.writes.After(absl::ToChronoNanoseconds(context_.stall_grace),
                          [weak = weak_from_this()] {
                            if (const auto self = weak.lock()) self->CutIfStillOpen();
                          });
  }
  std::unique_lock lock(mutex_);
  outbox_.PushFinished(event);
  Schedule(std::move(lock));
}

void GenerateCall::Schedule(std::unique_lock<std::mutex> lock) {
  if (queued_ || writing_ || finishing_) return;
  queued_ = true;
  lock.unlock();
  context_.writes.Push(shared_from_this());
}

void GenerateCall::Pump() {
  std::unique_lock lock(mutex_);
  queued_ = false;
  if (writing_ || finishing_) return;
  if (cancelled_) {
    finishing_ = true;
    lock.unlock();
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    return;
  }
  const Outbox::Next next = outbox_.Pop(&message_);
  const bool wake = std::exchange(waiting_, false);
  writing_ = next == Outbox::Next::kMessage;
  finishing_ = next == Outbox::Next::kLastMessage || next == Outbox::Next::kEnd;
  lock.unlock();
  switch (next) {
    case Outbox::Next::kNothing:
      break;
    case Outbox::Next::kMessage:
      StartWrite(&message_);
      break;
    case Outbox::Next::kLastMessage:
      StartWriteAndFinish(&message_, grpc::WriteOptions(), ToGrpcStatus(outbox_.status()));
      break;
    case Outbox::Next::kEnd:
      Finish(ToGrpcStatus(outbox_.status()));
      break;
  }
  if (wake) model_->scheduler->Wake();
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
  }
  Pump();
}

void GenerateCall::OnCancel() {
  std::optional<RequestId> id;
  bool finish = false;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    id = id_;
    finish = !writing_ && !finishing_;  // with a write in flight OnWriteDone comes, and finishes
    if (finish) finishing_ = true;
  }
  if (id && !HasPassed(deadline_)) model_->scheduler->Cancel(*id);
  if (finish) Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
}

void GenerateCall::OnDone() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  const std::shared_ptr<GenerateCall> self = std::move(self_);  // may be the last
}

void GenerateCall::CutIfStillOpen() {
  const std::lock_guard lock(mutex_);
  if (!done_) rpc_->TryCancel();
}

}  // namespace t2r::server

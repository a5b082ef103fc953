#include "server/text_call.h"

#include <utility>

#include "server/messages.h"
#include "server/refusals.h"

namespace t2r::server {

grpc::ServerUnaryReactor* TextCall::Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response, const char* method,
                                          WorkerPool& workers, Work work) {
  std::shared_ptr<TextCall> call(new TextCall(context, *rpc, response, method, workers));
  call->self_ = call;
  if (absl::Status s = call->record_.Enter(); !s.ok()) {
    call->end_.Fail(s);
  } else {
    call->Begin(TakeMessage(request), std::move(work));
  }
  return call.get();
}

void TextCall::Begin(const grpc::ByteBuffer& message, Work work) {
  absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return end_.Fail(model.status());
  const auto size = static_cast<int64_t>(message.Length());
  if (!lease_.TryResize(size)) {
    return end_.Fail(BuffersFull(context_.buffers));
  }
  const WorkerPool::Ticket ticket = workers_.TryPost(
      size,
      [self = shared_from_this(), served = *model, message, todo = std::move(work)](bool dropped) {
        if (dropped) {
          return self->end_.Fail(absl::UnavailableError("the server is shutting down"));
        }
        const absl::Status status = todo(message, *served, self->end_);
        if (!status.ok()) self->end_.Fail(status);
      });
  if (ticket == 0) {
    return end_.Fail(
        absl::ResourceExhaustedError("too many calls wait for a worker; try again later"));
  }
  bool cancelled;
  {
    const MutexLock lock(mutex_);
    ticket_ = ticket;
    cancelled = cancelled_;
  }
  if (cancelled) workers_.Remove(ticket);
}

void TextCall::OnCancel() {
  WorkerPool::Ticket ticket;
  {
    const MutexLock lock(mutex_);
    cancelled_ = true;
    ticket = std::exchange(ticket_, 0);
  }
  if (ticket != 0) workers_.Remove(ticket);
  end_.Cancel();
}

void TextCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<TextCall> self = std::move(self_);
}

}  // namespace t2r::server

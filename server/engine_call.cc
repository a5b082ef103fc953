#include "server/engine_call.h"

#include <utility>

#include "server/refusals.h"
#include "server/status.h"

namespace t2r::server {

EngineCall::EngineCall(CallContext& context, grpc::CallbackServerContext& rpc, const char* method)
    : context_(context),
      guard_(context.watch, rpc),
      record_(context, rpc, method),
      deadline_(DeadlineOf(rpc.deadline())),
      lease_(context.buffers) {}

void EngineCall::Begin(const grpc::ByteBuffer& message) {
  absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return Refuse(model.status());
  model_ = *model;
  if (absl::Status s = record_.Enter(); !s.ok()) return Refuse(s);
  const auto size = static_cast<int64_t>(message.Length());
  bool fits = false;
  {
    const MutexLock lock(request_mutex_);
    fits = lease_.TryResize(size);
  }
  if (!fits) {
    return Refuse(BuffersFull(context_.buffers));
  }
  if (size <= WorkerPool::kCostly) return Prepare(message, {}, false);
  // A token takes a byte of the message at least.
  absl::StatusOr<Scheduler::Reservation> reservation = Reserve(size);
  if (!reservation.ok()) return Refuse(reservation.status());
  Post(
      context_.workers, size,
      [this, message](Scheduler::Reservation place) { Prepare(message, std::move(place), true); },
      *std::move(reservation));
}

absl::StatusOr<Scheduler::Reservation> EngineCall::Reserve(int64_t tokens) {
  return model_->scheduler->Reserve(tokens, record_.tenant(), record_.limits().queue_share);
}

void EngineCall::Post(WorkerPool& workers, int64_t cost,
                      std::function<void(Scheduler::Reservation)> work,
                      Scheduler::Reservation reservation) {
  // std::function wants what it holds to be copyable.
  auto place = std::make_shared<Scheduler::Reservation>(std::move(reservation));
  const WorkerPool::Ticket ticket =
      workers.Post(cost, [self = shared_from_this(), place, todo = std::move(work)](bool dropped) {
        if (dropped) return self->Refuse(absl::UnavailableError("the server is shutting down"));
        if (!self->Cancelled()) todo(std::move(*place));
      });
  bool cancelled;
  {
    const MutexLock lock(request_mutex_);
    workers_ = &workers;
    ticket_ = ticket;
    cancelled = cancelled_;
  }
  if (cancelled) workers.Remove(ticket);
}

void EngineCall::Prepare(const grpc::ByteBuffer& message, Scheduler::Reservation reservation,
                         bool worker) {
  absl::StatusOr<PreparedRequest> made = Read(message);
  if (!made.ok()) return Refuse(made.status());
  made->request.deadline = deadline_;
  if (!reservation.valid()) {
    absl::StatusOr<Scheduler::Reservation> got = Reserve(made->queue_bound());
    if (!got.ok()) return Refuse(got.status());
    reservation = *std::move(got);
  }
  if (made->complete()) return Submit(std::move(made->request), std::move(reservation));
  // A turn waits for its session's store, where no text is to wait behind it.
  WorkerPool& workers = made->turn ? context_.store_workers : context_.workers;
  if (worker && !made->turn) return Tokenise(*std::move(made), std::move(reservation));
  const int64_t cost = made->queue_bound();
  auto prepared = std::make_shared<PreparedRequest>(*std::move(made));
  Post(
      workers, cost,
      [this, prepared](Scheduler::Reservation place) {
        Tokenise(std::move(*prepared), std::move(place));
      },
      std::move(reservation));
}

void EngineCall::Tokenise(PreparedRequest prepared, Scheduler::Reservation reservation) {
  if (absl::Status attached = Attach(prepared); !attached.ok()) return Refuse(attached);
  const absl::Time begun = absl::Now();
  absl::StatusOr<Request> request = Complete(std::move(prepared), *model_);
  record_.OnTokenise(begun, absl::Now());
  if (!request.ok()) return Refuse(request.status());
  Submit(*std::move(request), std::move(reservation));
}

void EngineCall::Submit(Request request, Scheduler::Reservation reservation) {
  request.tenant = record_.tenant();
  request.weight = record_.limits().weight;
  request.priority = record_.limits().priority;
  if (!Ready(request)) return;
  {
    const MutexLock lock(request_mutex_);
    lease_.Resize(request.queue_tokens() * static_cast<int64_t>(sizeof(int32_t)));
  }
  record_.OnSubmit(request);
  absl::StatusOr<RequestId> id =
      model_->scheduler->Submit(std::move(reservation), std::move(request), shared_from_this());
  if (!id.ok()) return Refuse(id.status());
  bool cancelled;
  {
    const MutexLock lock(request_mutex_);
    id_ = *id;
    cancelled = cancelled_;
  }
  if (cancelled) model_->scheduler->Cancel(*id);  // CancelRequest came before there was an id
}

bool EngineCall::Cancelled() {
  const MutexLock lock(request_mutex_);
  return cancelled_;
}

void EngineCall::CancelRequest() {
  std::optional<RequestId> id;
  WorkerPool::Ticket ticket;
  WorkerPool* workers;
  {
    const MutexLock lock(request_mutex_);
    cancelled_ = true;
    id = id_;
    workers = workers_;
    ticket = std::exchange(ticket_, 0);
  }
  if (ticket != 0) workers->Remove(ticket);
  // Where the deadline is what ended the RPC the scheduler's own timer ends the request, and it
  // counts as a deadline.
  if (id && !HasPassed(deadline_, record_.begun())) model_->scheduler->Cancel(*id);
}

}  // namespace t2r::server

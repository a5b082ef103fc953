#include "server/snapshot_calls.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/messages.h"
#include "server/refusals.h"
#include "server/session_messages.h"
#include "server/status.h"

namespace t2r::server {
namespace {

// Of a piece that leaves; a client may send larger ones, up to --max-request-bytes.
constexpr size_t kPieceBytes = 256 << 10;

absl::Status ManyWait() {
  return absl::ResourceExhaustedError("too many requests wait for a worker; try again later");
}

void CutLater(const CallContext& context, CallGuard& guard) {
  const absl::Duration limit = context.reading.stall_timeout;
  if (limit > absl::ZeroDuration()) guard.CutAt(absl::Now() + limit);
}

}  // namespace

ExportCall::ExportCall(CallContext& context, grpc::CallbackServerContext& rpc)
    : context_(context),
      guard_(context.watch, rpc),
      record_(context, rpc, "t2r.v1.Sessions/ExportSession"),
      lease_(context.buffers) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportCall::Start(CallContext& context,
                                                              grpc::CallbackServerContext* rpc,
                                                              const grpc::ByteBuffer* request) {
  std::shared_ptr<ExportCall> call(new ExportCall(context, *rpc));
  call->self_ = call;
  if (absl::Status s = call->record_.Enter(); !s.ok()) {
    call->End(s);
  } else {
    call->Begin(TakeMessage(request));
  }
  return call.get();
}

void ExportCall::Begin(const grpc::ByteBuffer& message) {
  absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return End(model.status());
  const WorkerPool::Ticket ticket = context_.store_workers.TryPost(
      static_cast<int64_t>(message.Length()),
      [self = shared_from_this(), served = *model, message](bool dropped) {
        if (dropped) return self->End(absl::UnavailableError("the server is shutting down"));
        self->Make(message, *served);
      });
  if (ticket == 0) End(ManyWait());
}

void ExportCall::Make(const grpc::ByteBuffer& message, const ServedModel& model) {
  v1::ExportSessionRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return End(s);
  if (absl::Status s = CheckKeepsSessions(model); !s.ok()) return End(s);
  const absl::StatusOr<SessionInfo> info = model.sessions->Get(request.id(), OwnerOf(record_));
  if (!info.ok()) return End(info.status());
  if (!lease_.TryResize(info->bytes)) return End(BuffersFull(context_.buffers));
  absl::StatusOr<std::string> snapshot = model.sessions->Export(request.id(), OwnerOf(record_));
  if (!snapshot.ok()) return End(snapshot.status());
  snapshot_ = *std::move(snapshot);
  WriteNext();
}

void ExportCall::WriteNext() {
  bool cancelled;
  bool more;
  {
    const MutexLock lock(mutex_);
    if (finished_) return;
    cancelled = cancelled_;
    more = !cancelled && written_ < snapshot_.size();
    writing_ = more;
  }
  if (!more)
    return End(cancelled ? absl::CancelledError("the client went away") : absl::OkStatus());
  v1::SnapshotChunk chunk;
  chunk.set_data(snapshot_.substr(written_, kPieceBytes));
  written_ += chunk.data().size();
  piece_ = ToBytes(chunk);
  CutLater(context_, guard_);
  StartWrite(&piece_);
}

void ExportCall::OnWriteDone(bool ok) {
  guard_.CutAt(absl::InfiniteFuture());
  {
    const MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
  }
  WriteNext();
}

void ExportCall::OnCancel() {
  bool writing;
  {
    const MutexLock lock(mutex_);
    cancelled_ = true;
    writing = writing_;
  }
  // With a write in flight OnWriteDone comes, and ends it.
  if (!writing) End(absl::CancelledError("the client went away"));
}

void ExportCall::End(const absl::Status& status) {
  {
    const MutexLock lock(mutex_);
    if (std::exchange(finished_, true)) return;
  }
  CutLater(context_, guard_);
  const grpc::Status told = ToRefusal(status, context_.metrics.RetryDelay());
  record_.OnEnd(told);
  Finish(told);
}

void ExportCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<ExportCall> self = std::move(self_);
}

ImportCall::ImportCall(CallContext& context, grpc::CallbackServerContext& rpc,
                       grpc::ByteBuffer* response)
    : context_(context),
      guard_(context.watch, rpc),
      record_(context, rpc, "t2r.v1.Sessions/ImportSession"),
      response_(response),
      lease_(context.buffers) {}

grpc::ServerReadReactor<grpc::ByteBuffer>* ImportCall::Start(CallContext& context,
                                                             grpc::CallbackServerContext* rpc,
                                                             grpc::ByteBuffer* response) {
  std::shared_ptr<ImportCall> call(new ImportCall(context, *rpc, response));
  call->self_ = call;
  if (absl::Status s = call->record_.Enter(); !s.ok()) {
    call->End(s);
  } else {
    call->Begin();
  }
  return call.get();
}

void ImportCall::Begin() {
  const absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return End(model.status());
  model_ = *model;
  if (absl::Status s = CheckKeepsSessions(*model_); !s.ok()) return End(s);
  ReadNext();
}

void ImportCall::ReadNext() {
  CutLater(context_, guard_);
  StartRead(&message_);
}

void ImportCall::OnReadDone(bool ok) {
  guard_.CutAt(absl::InfiniteFuture());
  if (!ok) return Make();
  if (absl::Status s = Take(); !s.ok()) return End(s);
  ReadNext();
}

absl::Status ImportCall::Take() {
  v1::ImportSessionRequest piece;
  if (absl::Status s = ParseMessage(message_, &piece); !s.ok()) return s;
  message_.Clear();
  if (!std::exchange(any_, true)) {
    id_ = piece.id();
    const absl::StatusOr<absl::Duration> ttl = TtlOf(piece.has_ttl(), piece.ttl());
    if (!ttl.ok()) return ttl.status();
    ttl_ = *ttl;
    allow_inexact_ = piece.allow_inexact();
  } else if (!piece.id().empty() || piece.has_ttl() || piece.allow_inexact()) {
    return absl::InvalidArgumentError("id, ttl and allow_inexact: only the first message has them");
  }
  const auto size = static_cast<int64_t>(snapshot_.size() + piece.data().size());
  if (size > model_->sessions->max_snapshot_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("data: more than ",
                                                   model_->sessions->max_snapshot_bytes(),
                                                   " bytes, which no snapshot of this model has"));
  }
  if (!lease_.TryResize(size)) return BuffersFull(context_.buffers);
  snapshot_ += piece.data();
  return absl::OkStatus();
}

void ImportCall::Make() {
  {
    const MutexLock lock(mutex_);
    if (finished_) return;
  }
  const WorkerPool::Ticket ticket = context_.store_workers.TryPost(
      static_cast<int64_t>(snapshot_.size()), [self = shared_from_this()](bool dropped) {
        if (dropped) return self->End(absl::UnavailableError("the server is shutting down"));
        const absl::StatusOr<SessionInfo> made = self->model_->sessions->Import(
            self->id_, self->ttl_, self->snapshot_, self->allow_inexact_, OwnerOf(self->record_));
        if (!made.ok()) return self->End(made.status());
        v1::Session response;
        ToProto(*made, &response);
        *self->response_ = ToBytes(response);
        self->End(absl::OkStatus());
      });
  if (ticket == 0) End(ManyWait());
}

// A read in flight fails, and what a worker makes of the rest goes unheard.
void ImportCall::OnCancel() { End(absl::CancelledError("the client went away")); }

void ImportCall::End(const absl::Status& status) {
  {
    const MutexLock lock(mutex_);
    if (std::exchange(finished_, true)) return;
  }
  CutLater(context_, guard_);
  const grpc::Status told = ToRefusal(status, context_.metrics.RetryDelay());
  record_.OnEnd(told);
  Finish(told);
}

void ImportCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<ImportCall> self = std::move(self_);
}

}  // namespace t2r::server

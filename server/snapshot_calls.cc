#include "server/snapshot_calls.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/messages.h"
#include "server/refusals.h"
#include "server/session_messages.h"

namespace t2r::server {
namespace {

// Of a piece that leaves; a client may send larger ones, up to --max-request-bytes.
constexpr size_t kPieceBytes = 256 << 10;
// Of a piece that comes: what a message has beside its data (an id that no session can have is
// refused for that), and what it takes in memory beside its bytes.
constexpr int64_t kFramingBytes = 1024;
constexpr int64_t kPieceOverhead = 512;

absl::Status ManyWait() {
  return absl::ResourceExhaustedError("too many requests wait for a worker; try again later");
}

absl::Status TooLarge(const ServedModel& model) {
  return absl::InvalidArgumentError(absl::StrCat("data: more than ",
                                                 model.sessions->max_snapshot_bytes(),
                                                 " bytes, which no snapshot of this model has"));
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
      end_(
          context, guard_, &record_, [this](const grpc::Status& status) { Finish(status); },
          nullptr),
      lease_(context.buffers) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportCall::Start(CallContext& context,
                                                              grpc::CallbackServerContext* rpc,
                                                              const grpc::ByteBuffer* request) {
  std::shared_ptr<ExportCall> call(new ExportCall(context, *rpc));
  call->self_ = call;
  if (absl::Status s = call->record_.Enter(); !s.ok()) {
    call->end_.Fail(s);
  } else {
    call->Begin(TakeMessage(request));
  }
  return call.get();
}

void ExportCall::Begin(const grpc::ByteBuffer& message) {
  absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return end_.Fail(model.status());
  const WorkerPool::Ticket ticket = context_.store_workers.TryPost(
      static_cast<int64_t>(message.Length()),
      [self = shared_from_this(), served = *model, message](bool dropped) {
        if (dropped) return self->end_.Fail(absl::UnavailableError("the server is shutting down"));
        self->Make(message, *served);
      });
  if (ticket == 0) end_.Fail(ManyWait());
}

void ExportCall::Make(const grpc::ByteBuffer& message, const ServedModel& model) {
  v1::ExportSessionRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return end_.Fail(s);
  record_.OnSession(request.id());
  if (absl::Status s = CheckKeepsSessions(model); !s.ok()) return end_.Fail(s);
  const absl::StatusOr<SessionInfo> info = model.sessions->Get(request.id(), OwnerOf(record_));
  if (!info.ok()) return end_.Fail(info.status());
  if (!lease_.TryResize(info->bytes)) return end_.Fail(BuffersFull(context_.buffers));
  absl::StatusOr<std::string> snapshot = model.sessions->Export(request.id(), OwnerOf(record_));
  if (!snapshot.ok()) return end_.Fail(snapshot.status());
  snapshot_ = *std::move(snapshot);
  WriteNext();
}

void ExportCall::WriteNext() {
  bool cancelled;
  bool more;
  {
    const MutexLock lock(mutex_);
    cancelled = cancelled_;
    more = !cancelled && written_ < snapshot_.size();
    writing_ = more;
  }
  if (cancelled) return end_.Cancel();
  if (!more) return end_.Close();
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
  if (!writing) end_.Cancel();
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
      end_(
          context, guard_, &record_, [this](const grpc::Status& status) { Finish(status); },
          response),
      lease_(context.buffers),
      share_(context.imports),
      meter_(context.reading.stall_timeout, context.reading.min_read_rate) {}

grpc::ServerReadReactor<grpc::ByteBuffer>* ImportCall::Start(CallContext& context,
                                                             grpc::CallbackServerContext* rpc,
                                                             grpc::ByteBuffer* response) {
  std::shared_ptr<ImportCall> call(new ImportCall(context, *rpc, response));
  call->self_ = call;
  if (absl::Status s = call->record_.Enter(); !s.ok()) {
    call->end_.Fail(s);
  } else {
    call->Begin();
  }
  return call.get();
}

void ImportCall::Begin() {
  const absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!model.ok()) return end_.Fail(model.status());
  model_ = *model;
  if (absl::Status s = CheckKeepsSessions(*model_); !s.ok()) return end_.Fail(s);
  ReadNext();
}

void ImportCall::ReadNext() {
  meter_.Update(false, received_, absl::Now());
  guard_.CutAt(meter_.deadline());
  StartRead(&message_);
}

void ImportCall::OnReadDone(bool ok) {
  guard_.CutAt(absl::InfiniteFuture());
  if (!ok) return Make();
  if (absl::Status s = Take(); !s.ok()) return end_.Fail(s);
  ReadNext();
}

absl::Status ImportCall::Take() {
  const auto pieces = static_cast<int64_t>(pieces_.size()) + 1;
  received_ += static_cast<int64_t>(message_.Length());
  if (received_ - pieces * kFramingBytes > model_->sessions->max_snapshot_bytes()) {
    return TooLarge(*model_);
  }
  const int64_t held = received_ + pieces * kPieceOverhead;
  const int64_t most = context_.imports.limit();
  if (most > 0 && held > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("data: more than the ", most,
                     " bytes that snapshots may take here on their way in (half of "
                     "--max-buffer-mib)"));
  }
  if (!share_.TryResize(held)) return BuffersFull(context_.imports);
  if (!lease_.TryResize(held)) return BuffersFull(context_.buffers);
  pieces_.push_back(message_);
  message_.Clear();
  return absl::OkStatus();
}

void ImportCall::Make() {
  if (end_.over()) return;
  const WorkerPool::Ticket ticket =
      context_.store_workers.TryPost(received_, [self = shared_from_this()](bool dropped) {
        if (dropped) return self->end_.Fail(absl::UnavailableError("the server is shutting down"));
        const absl::StatusOr<v1::Session> made = self->MakeSession();
        if (!made.ok()) return self->end_.Fail(made.status());
        self->end_.Answer(*made);
      });
  if (ticket == 0) end_.Fail(ManyWait());
}

absl::StatusOr<v1::Session> ImportCall::MakeSession() {
  v1::ImportSessionRequest first;
  std::string snapshot;
  snapshot.reserve(static_cast<size_t>(received_));
  for (size_t i = 0; i < pieces_.size(); ++i) {
    v1::ImportSessionRequest piece;
    if (absl::Status s = ParseMessage(pieces_[i], &piece); !s.ok()) return s;
    pieces_[i].Clear();
    snapshot += piece.data();
    if (i == 0) {
      piece.clear_data();
      first = std::move(piece);
      record_.OnSession(first.id());
    } else if (!piece.id().empty() || piece.has_ttl() || piece.allow_inexact()) {
      return absl::InvalidArgumentError(
          "id, ttl and allow_inexact: only the first message has them");
    }
  }
  SessionStore& sessions = *model_->sessions;
  if (static_cast<int64_t>(snapshot.size()) > sessions.max_snapshot_bytes()) {
    return TooLarge(*model_);
  }
  const absl::StatusOr<absl::Duration> ttl = TtlOf(first.has_ttl(), first.ttl());
  if (!ttl.ok()) return ttl.status();
  const absl::StatusOr<SessionInfo> made =
      sessions.Import(first.id(), *ttl, snapshot, first.allow_inexact(), OwnerOf(record_));
  if (!made.ok()) return made.status();
  record_.OnSession(made->id);
  v1::Session session;
  ToProto(*made, &session);
  return session;
}

// A read in flight fails, and what a worker makes of the rest goes unheard.
void ImportCall::OnCancel() { end_.Cancel(); }

void ImportCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<ImportCall> self = std::move(self_);
}

}  // namespace t2r::server

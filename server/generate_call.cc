#include "server/generate_call.h"

#include <utility>

#include "server/identity.h"
#include "server/messages.h"
#include "server/session_messages.h"
#include "server/status.h"

namespace t2r::server {
namespace {

// What a stream may have waiting even where all buffers together are full.
constexpr int64_t kOwnBytes = 4096;

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::Start(CallContext& context,
                                                                grpc::CallbackServerContext* rpc,
                                                                const grpc::ByteBuffer* request) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(context, *rpc));
  call->self_ = call;
  call->Begin(TakeMessage(request));
  return call.get();
}

GenerateCall::GenerateCall(CallContext& context, grpc::CallbackServerContext& rpc)
    : EngineCall(context, rpc),
      tenant_(TenantOf(context, rpc)),
      outbox_({.tokens = context.outbox.tokens,
               .bytes = context.outbox.bytes,
               .message_bytes = context.max_response_bytes}),
      buffered_(context.buffers) {}

absl::StatusOr<PreparedRequest> GenerateCall::Read(const grpc::ByteBuffer& message) {
  v1::GenerateRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return s;
  if (request.has_session()) {
    absl::StatusOr<SessionStore::TurnRequest> session = FromProto(request.session());
    if (!session.ok()) return session.status();
    session_ = *std::move(session);
  }
  absl::StatusOr<PreparedRequest> made = MakeRequest(request, *model_);
  if (made.ok()) made->request.tenant = tenant_;
  return made;
}

absl::Status GenerateCall::Attach(PreparedRequest& prepared) {
  if (!prepared.turn) return absl::OkStatus();
  if (absl::Status s = CheckKeepsSessions(*model_); !s.ok()) return s;
  absl::StatusOr<SessionTurn> turn = model_->sessions->Begin(session_);
  if (!turn.ok()) return turn.status();
  turn_ = *std::move(turn);
  return Join(turn_->state(), *model_, &prepared);
}

bool GenerateCall::Ready(const Request& request) {
  started_.set_seed(request.sampling.seed);
  started_.set_prompt_tokens(static_cast<uint32_t>(request.prompt_tokens()));
  started_.set_max_tokens(static_cast<uint32_t>(request.max_tokens));
  if (!turn_) return true;
  const auto position = static_cast<uint64_t>(turn_->position());
  // A source is no part of the sequence.
  const uint64_t prompt = request.prompt.size() - (request.from == nullptr ? 0 : 1);
  started_.set_session_id(turn_->id());
  started_.set_session_position(position + prompt);
  {
    const MutexLock lock(mutex_);
    outbox_.CountFrom(position, prompt);
  }
  const absl::Status room = turn_->Reserve(request.positions());
  if (!room.ok()) Refuse(room);
  return room.ok();
}

void GenerateCall::Refuse(const absl::Status& status) {
  context_.metrics.OnRefused(status.code());
  turn_.reset();
  {
    const MutexLock lock(mutex_);
    if (std::exchange(finishing_, true)) return;
    WatchTheRest(context_.reading.stall_timeout);
  }
  Finish(ToRefusal(status, context_.metrics.RetryDelay()));
}

void GenerateCall::OnStarted() {
  {
    const MutexLock lock(mutex_);
    outbox_.PushStarted(started_);
    if (!WantsTurn()) return;
  }
  Queue();
}

bool GenerateCall::HasRoom(int64_t tokens) {
  const MutexLock lock(mutex_);
  const bool fits = !context_.buffers.full() || outbox_.bytes() < kOwnBytes;
  if (cancelled_ || (fits && outbox_.HasRoom(tokens))) return true;
  waiting_ = true;
  return false;
}

int64_t GenerateCall::TakenBytes() {
  const MutexLock lock(mutex_);
  return taken_;
}

void GenerateCall::OnToken(TokenEvent event) {
  {
    const MutexLock lock(mutex_);
    if (cancelled_) return;
    outbox_.PushToken(event);
    CountBuffered();
    if (!WantsTurn()) return;
  }
  Queue();
}

void GenerateCall::OnFinished(FinishEvent event) {
  if (!turn_ || event.state == nullptr) {
    turn_.reset();
    return End(event);
  }
  // The store may wait for a disk, which the engine thread must not. A turn that has ended as it
  // should counts also where the server ends meanwhile.
  const int64_t cost = event.state->bytes();
  context_.workers.Post(
      cost, [this, self = shared_from_this(), ended = std::move(event)](bool /*dropped*/) mutable {
        const absl::Status kept = turn_->Commit(ended.state);
        turn_.reset();
        if (!kept.ok()) {
          ended.reason = FinishReason::kError;
          ended.status = kept;
          ended.state = nullptr;
        }
        End(ended);
      });
}

void GenerateCall::End(const FinishEvent& event) {
  {
    const MutexLock lock(mutex_);
    outbox_.PushFinished(event);
    CountBuffered();
    WatchTheRest(event.reason == FinishReason::kStalled ? context_.reading.stall_grace
                                                        : context_.reading.stall_timeout);
    if (!WantsTurn()) return;
  }
  Queue();
}

void GenerateCall::WatchTheRest(absl::Duration limit) {
  over_ = true;
  rest_ = StallMeter(limit, context_.reading.min_read_rate);
  rest_.Update(false, 0, absl::Now());
  guard_.CutAt(rest_.deadline());
}

void GenerateCall::CountBuffered() { buffered_.Resize(outbox_.bytes() + message_bytes_); }

bool GenerateCall::WantsTurn() {
  if (queued_ || writing_ || finishing_) return false;
  queued_ = true;
  return true;
}

void GenerateCall::Queue() {
  context_.writes.Push(std::static_pointer_cast<GenerateCall>(shared_from_this()));
}

void GenerateCall::Pump() {
  MutexLock lock(mutex_);
  queued_ = false;
  if (writing_ || finishing_) return;
  if (cancelled_) {
    finishing_ = true;
    lock.Unlock();
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    return;
  }
  const Outbox::Next next = outbox_.Pop(&event_);
  const bool wake = std::exchange(waiting_, false);
  writing_ = next == Outbox::Next::kMessage;
  finishing_ = next == Outbox::Next::kLastMessage || next == Outbox::Next::kEnd;
  if (writing_ || next == Outbox::Next::kLastMessage) message_ = ToBytes(event_);
  message_bytes_ = static_cast<int64_t>(message_.Length());
  CountBuffered();
  const grpc::Status end = finishing_ ? ToGrpcStatus(outbox_.status()) : grpc::Status::OK;
  lock.Unlock();
  switch (next) {
    case Outbox::Next::kNothing:
      break;
    case Outbox::Next::kMessage:
      StartWrite(&message_);
      break;
    case Outbox::Next::kLastMessage:
      StartWriteAndFinish(&message_, grpc::WriteOptions(), end);
      break;
    case Outbox::Next::kEnd:
      Finish(end);
      break;
  }
  if (wake) model_->scheduler->Wake();
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    const MutexLock lock(mutex_);
    writing_ = false;
    if (ok) taken_ += message_bytes_;
    message_bytes_ = 0;
    CountBuffered();
    if (!ok) cancelled_ = true;
    if (over_) {
      rest_.Update(false, taken_, absl::Now());
      guard_.CutAt(rest_.deadline());
    }
    message_.Clear();
  }
  Pump();
}

void GenerateCall::OnCancel() {
  bool finish = false;
  {
    const MutexLock lock(mutex_);
    cancelled_ = true;
    finish = !writing_ && !finishing_;  // with a write in flight OnWriteDone comes, and finishes
    if (finish) finishing_ = true;
  }
  CancelRequest();
  if (finish) Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
}

void GenerateCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<EngineCall> self = std::move(self_);  // may be the last
}

}  // namespace t2r::server

#include "server/generate_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/messages.h"
#include "server/session_messages.h"
#include "server/status.h"

namespace t2r::server {
namespace {

// What a stream may have waiting even where all buffers together are full.
constexpr int64_t kOwnBytes = 4096;
// In such steps the budget of all buffers counts a stream's: most tokens then leave it alone.
constexpr int64_t kCountedBytes = 512;
// GenerateCall::room_, of an outbox that is full, and of one that nobody will read.
constexpr int64_t kNoRoom = -1;
constexpr int64_t kBoundless = std::numeric_limits<int64_t>::max();
// In a turn of so many events the engine starts the writes of tokens itself: some microseconds
// each.
constexpr size_t kFew = 4;
// How long the turn of a request that did not ask for a session can be gone on with.
constexpr int64_t kStreamSeconds = 300;
// When a drained turn may be gone on with, on another server.
constexpr absl::Duration kResumeDelay = absl::Milliseconds(50);

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
    : EngineCall(context, rpc, "t2r.v1.Generation/Generate"),
      outbox_({.tokens = context.outbox.tokens,
               .bytes = context.outbox.bytes,
               .message_bytes = context.max_response_bytes,
               .message_tokens = context.outbox.message_tokens}),
      buffered_(context.buffers) {}

absl::StatusOr<PreparedRequest> GenerateCall::Read(const grpc::ByteBuffer& message) {
  v1::GenerateRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return s;
  silent_ = context_.resumable_streams && !request.has_session() && !request.has_beams();
  if (silent_) {
    request.mutable_session()->set_create(true);
    request.mutable_session()->mutable_ttl()->set_seconds(kStreamSeconds);
  }
  if (request.has_session()) {
    absl::StatusOr<SessionStore::TurnRequest> session = FromProto(request.session());
    if (!session.ok()) return session.status();
    session_ = *std::move(session);
    session_.owner = OwnerOf(record_);
    record_.OnSession(session_.id);
    if (!silent_ && session_.id.empty()) session_.create = false;  // refused, as any wrong id
    if (session_.resume_at) return MakeResumption();
  }
  record_.KeepPrompt(request.text());
  return MakeRequest(request, *model_);
}

absl::Status GenerateCall::Attach(PreparedRequest& prepared) {
  if (!prepared.turn) return absl::OkStatus();
  if (absl::Status s = CheckKeepsSessions(*model_); !s.ok()) return s;
  absl::StatusOr<SessionTurn> turn = model_->sessions->Begin(session_);
  if (!turn.ok() && silent_) {
    prepared.turn.reset();
    prepared.request.keep = false;
    return absl::OkStatus();
  }
  if (!turn.ok()) return turn.status();
  turn_ = *std::move(turn);
  record_.OnSession(turn_->id());
  turn_->OnTakeOver([weak = weak_from_this()] {
    const auto self = std::static_pointer_cast<GenerateCall>(weak.lock());
    if (self != nullptr) self->guard_.CutAt(absl::Now());
  });
  resumed_ = turn_->resumed();
  if (!resumed_) return Join(turn_->state(), *model_, &prepared);
  generated_before_ = resumed_->generated(turn_->position());
  return Resume(*resumed_, turn_->state(), &prepared);
}

absl::Status GenerateCall::StartTurn(const Request& request) {
  const int64_t position = turn_->position();
  absl::Status status = turn_->Start(TurnOf(request, position), request.positions());
  if (!status.ok()) return status;
  // A source is no part of the sequence.
  const int64_t prompt =
      static_cast<int64_t>(request.prompt.size()) - (request.from == nullptr ? 0 : 1);
  int64_t known = position + prompt;
  if (resumed_) {
    known = std::max(turn_->resume_at(), resumed_->begin());
    started_.set_prompt_tokens(static_cast<uint32_t>(resumed_->prompt_tokens()));
    started_.set_max_tokens(static_cast<uint32_t>(resumed_->max_tokens));
  }
  started_.set_session_id(turn_->id());
  started_.set_session_position(static_cast<uint64_t>(known));
  const MutexLock lock(mutex_);
  outbox_.CountFrom(static_cast<uint64_t>(position), static_cast<uint64_t>(prompt),
                    static_cast<uint64_t>(known));
  return status;
}

bool GenerateCall::Ready(Request& request) {
  started_.set_seed(request.sampling.seed);
  started_.set_prompt_tokens(static_cast<uint32_t>(request.prompt_tokens()));
  started_.set_max_tokens(static_cast<uint32_t>(request.max_tokens));
  if (!turn_) return true;
  request.checkpoint_tokens = context_.checkpoint_tokens;
  const absl::Status started = StartTurn(request);
  if (started.ok()) return true;
  if (!silent_) {
    Refuse(started);
    return false;
  }
  turn_.reset();
  request.keep = false;
  request.checkpoint_tokens = 0;
  return true;
}

void GenerateCall::Refuse(const absl::Status& status) {
  context_.metrics.OnRefused(status.code());
  turn_.reset();
  {
    const MutexLock lock(mutex_);
    if (std::exchange(finishing_, true)) return;
    WatchTheRest(context_.reading.stall_timeout);
  }
  Finish(Told(ToRefusal(status, context_.metrics.RetryDelay())));
}

void GenerateCall::OnStarted(size_t together) {
  {
    const MutexLock lock(mutex_);
    outbox_.PushStarted(started_);
    if (!WantsTurn()) return;
  }
  Write(together);
}

EventSink::Room GenerateCall::RoomFor(int64_t tokens) {
  const int64_t seen = room_.load(std::memory_order_acquire);
  if (seen == kNoRoom) return {false, taken_};
  if (seen >= tokens && !context_.buffers.full()) return {true, taken_};
  const MutexLock lock(mutex_);
  const bool room = outbox_.Room() >= tokens;
  const bool buffers = !context_.buffers.full() || outbox_.bytes() < kOwnBytes;
  const bool fits = cancelled_ || (buffers && room);
  if (!cancelled_ && !room) room_ = kNoRoom;
  if (!fits) waiting_ = true;
  return {fits, taken_};
}

void GenerateCall::OnToken(const TokenEvent& event) {
  {
    const MutexLock lock(mutex_);
    if (cancelled_) return;
    outbox_.PushToken(event);
    CountOutbox();
    if (!WantsTurn()) return;
  }
  Write(event.together);
}

void GenerateCall::OnCheckpoint(std::shared_ptr<const SessionState> state) {
  // One at a time: where the store is slower than the engine, fewer are stored.
  if (storing_.exchange(true)) return;
  const int64_t cost = state->bytes();
  context_.store_workers.Post(cost, [self = shared_from_this(), this, store = turn_->Checkpointer(),
                                     kept = std::move(state)](bool dropped) {
    // One that cannot be stored costs recomputation alone.
    if (!dropped) static_cast<void>(store(kept));
    storing_ = false;
  });
}

void GenerateCall::OnFinished(FinishEvent event) {
  record_.OnFinished(event);
  if (resumed_) {
    event.generated_tokens += generated_before_;
    event.prompt_tokens = resumed_->prompt_tokens();
  }
  if (!turn_) return End(event);
  // The store may wait for a disk or a network, which the engine thread must not. A turn that has
  // ended as it should counts also where the server ends meanwhile.
  const int64_t cost = event.state == nullptr ? 0 : event.state->bytes();
  context_.store_workers.Post(
      cost, [this, self = shared_from_this(), ended = std::move(event)](bool /*dropped*/) mutable {
        EndTurn(&ended);
        End(ended);
      });
}

const grpc::Status& GenerateCall::Told(const grpc::Status& status) {
  record_.OnEnd(status);
  return status;
}

void GenerateCall::EndTurn(FinishEvent* event) {
  const bool drained = event->reason == FinishReason::kDrained;
  absl::Status kept;
  if (drained) {
    // What could not be stored is made again.
    static_cast<void>(turn_->Park(event->state));
    const MutexLock lock(mutex_);
    drained_ = true;
  } else if (event->state != nullptr) {
    kept = turn_->Commit(event->state);
  }
  turn_.reset();
  if (kept.ok() || silent_) return;
  event->reason = FinishReason::kError;
  event->status = kept;
  event->state = nullptr;
}

void GenerateCall::End(const FinishEvent& event) {
  {
    const MutexLock lock(mutex_);
    outbox_.PushFinished(event);
    CountOutbox();
    WatchTheRest(event.reason == FinishReason::kStalled ? context_.reading.stall_grace
                                                        : context_.reading.stall_timeout);
    if (!WantsTurn()) return;
  }
  Queue();
}

void GenerateCall::WatchTheRest(absl::Duration limit) {
  over_ = true;
  rest_ = StallMeter(limit, context_.reading.min_read_rate);
  rest_.Update(false, taken_, absl::Now());
  guard_.CutAt(rest_.deadline());
}

void GenerateCall::CountOutbox() {
  room_.store(cancelled_ ? kBoundless : outbox_.Room(), std::memory_order_release);
  const int64_t bytes = outbox_.bytes() + message_bytes_;
  buffered_.Resize((bytes + kCountedBytes - 1) / kCountedBytes * kCountedBytes);
}

bool GenerateCall::WantsTurn() {
  if (queued_ || writing_ || finishing_) return false;
  queued_ = true;
  return true;
}

void GenerateCall::Write(size_t together) {
  if (together <= kFew) {
    Pump();
  } else {
    Queue();
  }
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
    Finish(Told(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away")));
    return;
  }
  const Outbox::Next next = outbox_.Pop(&sending_);
  message_bytes_ = sending_.bytes();
  CountOutbox();
  // Not for every token of messages that are short.
  const bool wake = waiting_ && outbox_.Room() >= std::max<int64_t>(context_.outbox.tokens / 2, 1);
  if (wake) waiting_ = false;
  writing_ = next == Outbox::Next::kMessage;
  finishing_ = next == Outbox::Next::kLastMessage || next == Outbox::Next::kEnd;
  grpc::Status end;
  if (finishing_) {
    end = drained_ ? ToGrpcStatus(outbox_.status(), kResumeDelay) : ToGrpcStatus(outbox_.status());
  }
  lock.Unlock();
  if (wake) model_->scheduler->Wake();  // it works while the write goes out
  // From here until the write is done nobody else looks at the message.
  if (next == Outbox::Next::kMessage || next == Outbox::Next::kLastMessage) {
    message_ = sending_.ToWire();
  }
  switch (next) {
    case Outbox::Next::kNothing:
      break;
    case Outbox::Next::kMessage:
      StartWrite(&message_);
      break;
    case Outbox::Next::kLastMessage:
      StartWriteAndFinish(&message_, grpc::WriteOptions(), Told(end));
      break;
    case Outbox::Next::kEnd:
      Finish(Told(end));
      break;
  }
}

void GenerateCall::OnWriteDone(bool ok) {
  const auto bytes = static_cast<int64_t>(message_.Length());
  message_.Clear();
  {
    const MutexLock lock(mutex_);
    writing_ = false;
    if (ok) taken_ += bytes;
    message_bytes_ = 0;
    if (!ok) cancelled_ = true;
    CountOutbox();
    if (over_) {
      rest_.Update(false, taken_, absl::Now());
      guard_.CutAt(rest_.deadline());
    }
  }
  Pump();
}

void GenerateCall::OnCancel() {
  bool finish = false;
  {
    const MutexLock lock(mutex_);
    cancelled_ = true;
    CountOutbox();
    finish = !writing_ && !finishing_;  // with a write in flight OnWriteDone comes, and finishes
    if (finish) finishing_ = true;
  }
  CancelRequest();
  if (finish) Finish(Told(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away")));
}

void GenerateCall::OnDone() {
  guard_.Done();
  const std::shared_ptr<EngineCall> self = std::move(self_);  // may be the last
}

}  // namespace t2r::server

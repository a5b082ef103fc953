// One Generate RPC.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "engine/io/mutex.h"
#include "engine/scheduler/stall_meter.h"
#include "engine/sessions/session_store.h"
#include "server/engine_call.h"
#include "server/outbox.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// The engine thread pushes events into the outbox. Where none is in flight it starts the write
// itself for a start or a token if few events go out in its turn, since waking another thread would
// cost as much; else it queues the stream for the write queue's thread. OnWriteDone starts the
// next. At most one write is in flight and Finish is called exactly once: by whoever finds, under
// the lock, that the stream has ended or was cancelled and no write is in flight. From its end on
// the client has to take what is left at the rate that ReadLimits ask for, or the RPC is cut.
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public EngineCall,
                           public Writable {
 public:
  // The reaction.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(CallContext& context,
                                                           grpc::CallbackServerContext* rpc,
                                                           const grpc::ByteBuffer* request);

  // From gRPC.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // From the engine thread.
  void OnStarted(size_t together) override;
  Room RoomFor(int64_t tokens) override;
  void OnToken(const TokenEvent& event) override;
  void OnCheckpoint(std::shared_ptr<const SessionState> state) override;
  void OnFinished(FinishEvent event) override;

  // From the write queue, the engine thread and OnWriteDone.
  void Pump() override;

 private:
  GenerateCall(CallContext& context, grpc::CallbackServerContext& rpc);

  absl::StatusOr<PreparedRequest> Read(const grpc::ByteBuffer& message) override;
  absl::Status Attach(PreparedRequest& prepared) override;
  bool Ready(Request& request) override;
  // The turn is known, and there is room for what it leaves.
  absl::Status StartTurn(const Request& request);
  // On a worker: brings the turn to its end in the store.
  void EndTurn(FinishEvent* event);
  void Refuse(const absl::Status& status) override;
  // What Finish is given.
  const grpc::Status& Told(const grpc::Status& status);
  // The last event.
  void End(const FinishEvent& event);
  // Whether the stream has to be queued for writing, which the caller then does without the lock.
  bool WantsTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Queue();
  // The same, or starts the write at once where few events go out in the engine's turn.
  void Write(size_t together);
  // The budget knows what waits and what is being written, and the engine what there is room for.
  void CountOutbox() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The stream is over: its client has time to take the rest.
  void WatchTheRest(absl::Duration limit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  v1::Started started_;
  SessionStore::TurnRequest session_;  // what the request says of its session
  // The client did not ask for the session: where there can be none, the request runs without.
  bool silent_ = false;
  // Of a request with one, from Attach until Refuse or the last event. Who is called with the
  // request has it to itself: one after the other. It may wait for a store, also when it goes: on
  // workers alone.
  std::optional<SessionTurn> turn_;
  // Of a turn that is gone on with: what it was, and tokens that were generated before.
  std::optional<TurnParameters> resumed_;
  int64_t generated_before_ = 0;
  std::atomic<bool> storing_{false};  // a worker stores a checkpoint
  // What the outbox has room for, or, once the engine has found that too little, kNoRoom until
  // something comes or goes; only with waiting_, so that the engine is woken. Written under the
  // lock; the engine, which asks in every turn and alone makes it less, reads without.
  std::atomic<int64_t> room_{0};
  std::atomic<int64_t> taken_{0};     // bytes whose write is done
  std::shared_ptr<EngineCall> self_;  // until OnDone

  Mutex mutex_;
  Outbox outbox_ ABSL_GUARDED_BY(mutex_);
  BufferLease buffered_ ABSL_GUARDED_BY(mutex_);  // of the outbox and the write in flight
  StallMeter rest_ ABSL_GUARDED_BY(mutex_);       // once it is over
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;     // the client is gone, or a write failed
  bool queued_ ABSL_GUARDED_BY(mutex_) = false;        // in the write queue
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;       // a write is in flight
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;       // a turn that can be gone on with
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;     // Finish has been called
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;       // for room, since the last Wake
  int64_t message_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of message_, about, while it is written
  // Of the thread that begins a write, then gRPC's while it is in flight.
  OutboxMessage sending_;
  grpc::ByteBuffer message_;  // made of it
};

}  // namespace t2r::server

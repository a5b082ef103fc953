// One Generate RPC.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>

#include "engine/scheduler/stall_meter.h"
#include "server/engine_call.h"
#include "server/outbox.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// The engine thread pushes events into the outbox and queues the stream for the write queue's
// thread, which starts a write; OnWriteDone starts the next. At most one write is in flight and
// Finish is called exactly once: by whoever finds, under the lock, that the stream has ended or was
// cancelled and no write is in flight. From its end on the client has to take what is left at the
// rate that ReadLimits ask for, or the RPC is cut.
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
  void OnStarted() override;
  bool HasRoom(int64_t tokens) override;
  int64_t TakenBytes() override;
  void OnToken(TokenEvent event) override;
  void OnFinished(FinishEvent event) override;

  // From the write queue.
  void Pump() override;

 private:
  GenerateCall(CallContext& context, grpc::CallbackServerContext& rpc);

  absl::StatusOr<PreparedRequest> Read(const grpc::ByteBuffer& message) override;
  bool Ready(const Request& request) override;
  void Refuse(const absl::Status& status) override;
  // Queues the stream for writing if it has to be; `lock` is released.
  void Schedule(std::unique_lock<std::mutex> lock);
  // The stream is over: its client has time to take the rest. Under the lock.
  void WatchTheRest(absl::Duration limit);

  v1::Started started_;
  std::shared_ptr<EngineCall> self_;  // until OnDone

  std::mutex mutex_;
  Outbox outbox_;
  BufferLease buffered_;  // of the outbox and the write in flight
  int64_t taken_ = 0;     // bytes whose write is done
  StallMeter rest_;       // once it is over
  bool over_ = false;
  bool cancelled_ = false;  // the client is gone, or a write failed
  bool queued_ = false;     // in the write queue
  bool writing_ = false;    // a write is in flight; message_ belongs to gRPC
  bool finishing_ = false;  // Finish has been called
  bool waiting_ = false;    // HasRoom has answered no since the last Wake
  v1::GenerateResponse event_;
  grpc::ByteBuffer message_;
};

}  // namespace t2r::server

// One Generate RPC.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "engine/scheduler/scheduler.h"
#include "server/call_context.h"
#include "server/outbox.h"
#include "server/requests.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// Life: Start validates and reserves in the reaction, then submits (token ids) or leaves that to a
// worker (text). The engine thread pushes events into the outbox and queues the stream for the
// write queue's thread, which starts a write; OnWriteDone starts the next. At most one write is in
// flight and Finish is called exactly once: by whoever finds, under the lock, that the stream has
// ended or was cancelled and no write is in flight.
//
// Owned by itself until OnDone, by the scheduler until OnFinished, and by queues in between.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public EventSink,
                           public Writable,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // The reaction. `request` is valid until OnDone.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(CallContext& context,
                                                               grpc::CallbackServerContext* rpc,
                                                               const v1::GenerateRequest* request);

  // From gRPC.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // From the engine thread.
  void OnStarted() override;
  bool HasRoom(int64_t tokens) override;
  void OnToken(TokenEvent event) override;
  void OnFinished(FinishEvent event) override;

  // From the write queue.
  void Pump() override;

 private:
  GenerateCall(CallContext& context, grpc::CallbackServerContext* rpc);

  void Begin(const v1::GenerateRequest& request);
  void Tokenise(PreparedRequest prepared, Scheduler::Reservation reservation);
  void Submit(Request request, Scheduler::Reservation reservation);
  // Ends the RPC before the scheduler has taken the request.
  void Refuse(const absl::Status& status);
  // Queues the stream for writing if it has to be; `lock` is released.
  void Schedule(std::unique_lock<std::mutex> lock);
  void CutIfStillOpen();

  CallContext& context_;
  grpc::CallbackServerContext* const rpc_;  // valid until done_
  ServedModel* model_ = nullptr;
  absl::Time deadline_;
  v1::Started started_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone

  std::mutex mutex_;
  Outbox outbox_;
  std::optional<RequestId> id_;
  bool cancelled_ = false;  // the client is gone, or a write failed
  bool queued_ = false;     // in the write queue
  bool writing_ = false;    // a write is in flight; message_ belongs to gRPC
  bool finishing_ = false;  // Finish has been called
  bool waiting_ = false;    // HasRoom has answered no since the last Wake
  bool done_ = false;
  v1::GenerateResponse message_;
};

}  // namespace t2r::server

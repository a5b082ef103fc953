// What Generate and Score share: the road from a message to the scheduler.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <memory>
#include <optional>

#include "engine/io/mutex.h"
#include "engine/scheduler/scheduler.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/call_watch.h"
#include "server/requests.h"

namespace t2r::server {

// Begin refuses what can be refused at once and takes a place in the queue; large messages are then
// parsed, and texts tokenised, by a worker, and the request is submitted. CancelRequest gives up
// whatever has been reached: the turn at the workers, the place, the session.
//
// Owned by its RPC until OnDone, by the scheduler until OnFinished, and by queues in between.
class EngineCall : public EventSink, public std::enable_shared_from_this<EngineCall> {
 protected:
  // method: as CallRecord's.
  EngineCall(CallContext& context, grpc::CallbackServerContext& rpc, const char* method);

  // In the reaction.
  void Begin(const grpc::ByteBuffer& message);
  // The client is gone. Any thread.
  void CancelRequest();

  // The request of the message. A worker, or the reaction.
  virtual absl::StatusOr<PreparedRequest> Read(const grpc::ByteBuffer& message) = 0;
  // Before the request's texts are tokenised: what takes a worker, and may fail.
  virtual absl::Status Attach(PreparedRequest& /*prepared*/) { return absl::OkStatus(); }
  // The request is complete. False: it is answered already and needs no engine.
  virtual bool Ready(Request& request) = 0;
  // Ends the RPC before the scheduler has taken the request.
  virtual void Refuse(const absl::Status& status) = 0;

  CallContext& context_;
  CallGuard guard_;
  CallRecord record_;
  ServedModel* model_ = nullptr;  // set by Begin

 private:
  void Prepare(const grpc::ByteBuffer& message, Scheduler::Reservation reservation, bool worker);
  void Tokenise(PreparedRequest prepared, Scheduler::Reservation reservation);
  absl::StatusOr<Scheduler::Reservation> Reserve(int64_t tokens);
  void Submit(Request request, Scheduler::Reservation reservation);
  // Runs `work` on one of the workers; refuses when the server ends before.
  void Post(WorkerPool& workers, int64_t cost, std::function<void(Scheduler::Reservation)> work,
            Scheduler::Reservation reservation);
  bool Cancelled();

  const absl::Time deadline_;

  Mutex request_mutex_;
  BufferLease lease_ ABSL_GUARDED_BY(request_mutex_);              // of message, texts, ids
  WorkerPool* workers_ ABSL_GUARDED_BY(request_mutex_) = nullptr;  // whose the ticket is
  WorkerPool::Ticket ticket_ ABSL_GUARDED_BY(request_mutex_) = 0;
  std::optional<RequestId> id_ ABSL_GUARDED_BY(request_mutex_);
  bool cancelled_ ABSL_GUARDED_BY(request_mutex_) = false;
};

}  // namespace t2r::server

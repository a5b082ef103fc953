// ExportSession and ImportSession: a session as a stream of pieces, out and in.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/io/mutex.h"
#include "engine/scheduler/stall_meter.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/call_watch.h"
#include "server/unary_end.h"
#include "t2r/v1/sessions.pb.h"

namespace t2r::server {

// A worker makes the snapshot; then one write follows the other. A client that does not take a
// piece in time is cut.
class ExportCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                         public std::enable_shared_from_this<ExportCall> {
 public:
  // The reaction.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(CallContext& context,
                                                           grpc::CallbackServerContext* rpc,
                                                           const grpc::ByteBuffer* request);
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  ExportCall(CallContext& context, grpc::CallbackServerContext& rpc);
  void Begin(const grpc::ByteBuffer& message);
  void Make(const grpc::ByteBuffer& message, const ServedModel& model);
  // Writes the next piece, or ends.
  void WriteNext();

  CallContext& context_;
  CallGuard guard_;
  CallRecord record_;
  UnaryEnd end_;
  BufferLease lease_;                 // of the snapshot
  std::shared_ptr<ExportCall> self_;  // until OnDone
  std::string snapshot_;
  size_t written_ = 0;

  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer piece_;  // gRPC's while a write is in flight
};

// Takes pieces as they come until the client has sent all, or more than any snapshot of this model
// has; a worker reads them. All uploads together have a part of the buffers, and a client that lags
// behind --min-read-rate for longer than --stall-seconds is cut, so that none is held for long.
class ImportCall final : public grpc::ServerReadReactor<grpc::ByteBuffer>,
                         public std::enable_shared_from_this<ImportCall> {
 public:
  // The reaction. `response` is valid until OnDone.
  static grpc::ServerReadReactor<grpc::ByteBuffer>* Start(CallContext& context,
                                                          grpc::CallbackServerContext* rpc,
                                                          grpc::ByteBuffer* response);
  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  ImportCall(CallContext& context, grpc::CallbackServerContext& rpc, grpc::ByteBuffer* response);
  void Begin();
  void ReadNext();
  // Keeps the piece in message_.
  absl::Status Take();
  // All has come: a worker makes the session.
  void Make();
  // Reads the pieces, and lets them go.
  absl::StatusOr<v1::Session> MakeSession();

  CallContext& context_;
  CallGuard guard_;
  CallRecord record_;
  UnaryEnd end_;
  BufferLease lease_, share_;         // of the buffers, and of the imports' part of them
  std::shared_ptr<ImportCall> self_;  // until OnDone
  ServedModel* model_ = nullptr;
  StallMeter meter_;  // of what the client sends
  grpc::ByteBuffer message_;
  std::vector<grpc::ByteBuffer> pieces_;
  int64_t received_ = 0;  // bytes
};

}  // namespace t2r::server

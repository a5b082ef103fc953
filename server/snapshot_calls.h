// ExportSession and ImportSession: a session as a stream of pieces, out and in.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "engine/io/mutex.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/call_watch.h"
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
  void End(const absl::Status& status);

  CallContext& context_;
  CallGuard guard_;
  CallRecord record_;
  BufferLease lease_;                 // of the snapshot
  std::shared_ptr<ExportCall> self_;  // until OnDone
  std::string snapshot_;
  size_t written_ = 0;

  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer piece_;  // gRPC's while a write is in flight
};

// Reads pieces until the client has sent all, or more than any snapshot of this model has; a worker
// reads the snapshot. A client that sends no piece in time is cut.
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
  // Takes the piece in message_.
  absl::Status Take();
  void ReadNext();
  // All has come: a worker makes the session.
  void Make();
  void End(const absl::Status& status);

  CallContext& context_;
  CallGuard guard_;
  CallRecord record_;
  grpc::ByteBuffer* const response_;
  BufferLease lease_;                 // of what has come
  std::shared_ptr<ImportCall> self_;  // until OnDone
  ServedModel* model_ = nullptr;
  grpc::ByteBuffer message_;
  bool any_ = false;  // a piece has come
  std::string id_;
  absl::Duration ttl_;
  bool allow_inexact_ = false;
  std::string snapshot_;

  Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace t2r::server

// The end of an RPC that is answered at most once, and cut when its client does not take its end.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <utility>

#include "engine/io/mutex.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/call_watch.h"

namespace t2r::server {

// A member of a reactor. The first of Answer, Close, Fail and Cancel wins. Thread-safe; once one of
// them has won, the others touch neither reactor nor response, not even after the reactor's OnDone.
class UnaryEnd {
 public:
  // `guard` and `record` (null: none) are the owner's. finish: the reactor's Finish. *response
  // (null: of a call that streams its answer) is valid until OnDone.
  UnaryEnd(CallContext& context, CallGuard& guard, CallRecord* record,
           std::function<void(const grpc::Status&)> finish, grpc::ByteBuffer* response)
      : context_(context),
        guard_(guard),
        record_(record),
        finish_(std::move(finish)),
        response_(response),
        lease_(context.buffers) {}
  UnaryEnd(CallContext& context, CallGuard& guard, CallRecord* record,
           grpc::ServerUnaryReactor& reactor, grpc::ByteBuffer* response)
      : UnaryEnd(
            context, guard, record,
            [&reactor](const grpc::Status& status) { reactor.Finish(status); }, response) {}

  CallRecord* record() const { return record_; }
  // Whether one of them has won.
  bool over() const;

  // An answer above --max-response-bytes becomes INVALID_ARGUMENT.
  void Answer(const google::protobuf::Message& message);
  // OK, with the answer streamed.
  void Close();
  // RESOURCE_EXHAUSTED and UNAVAILABLE tell when to try again.
  void Fail(const absl::Status& status);
  // The client is gone.
  void Cancel();

 private:
  bool Take();
  void Finish(const grpc::Status& status, int64_t bytes);

  CallContext& context_;
  CallGuard& guard_;
  CallRecord* const record_;
  const std::function<void(const grpc::Status&)> finish_;
  grpc::ByteBuffer* const response_;
  BufferLease lease_;
  mutable Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace t2r::server

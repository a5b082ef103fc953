// The end of a unary RPC: answered once, and cut when its client does not take the answer.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "engine/io/mutex.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/call_watch.h"

namespace t2r::server {

// A member of a reactor. The first of Answer, Fail and Cancel wins. Thread-safe until the reactor's
// OnDone.
class UnaryEnd {
 public:
  // `guard`, `record` (null: none) and `reactor` are the owner's; *response is valid until OnDone.
  UnaryEnd(CallContext& context, CallGuard& guard, CallRecord* record,
           grpc::ServerUnaryReactor& reactor, grpc::ByteBuffer* response)
      : context_(context),
        guard_(guard),
        record_(record),
        reactor_(reactor),
        response_(response),
        lease_(context.buffers) {}

  // An answer above --max-response-bytes becomes INVALID_ARGUMENT.
  void Answer(const google::protobuf::Message& message);
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
  grpc::ServerUnaryReactor& reactor_;
  grpc::ByteBuffer* const response_;
  BufferLease lease_;
  Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace t2r::server

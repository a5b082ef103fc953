// One RPC that needs no engine: Tokenize or Detokenize, or a call of the service Sessions.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>

#include "engine/io/mutex.h"
#include "server/call_context.h"
#include "server/call_record.h"
#include "server/call_watch.h"
#include "server/unary_end.h"

namespace t2r::server {

// The message waits for a worker, which parses it, works and answers. A call whose client goes
// gives up its turn; one that runs already ends unheard.
class TextCall final : public grpc::ServerUnaryReactor,
                       public std::enable_shared_from_this<TextCall> {
 public:
  // Parses the message and answers, or says what is wrong. A worker.
  using Work = std::function<absl::Status(const grpc::ByteBuffer& message, const ServedModel& model,
                                          UnaryEnd& end)>;

  // The reaction; refuses where too many wait already. `response` is valid until OnDone. method: as
  // CallRecord's. workers: of the context, on which it works.
  static grpc::ServerUnaryReactor* Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response, const char* method,
                                         WorkerPool& workers, Work work);

  void OnCancel() override;
  void OnDone() override;

 private:
  TextCall(CallContext& context, grpc::CallbackServerContext& rpc, grpc::ByteBuffer* response,
           const char* method, WorkerPool& workers)
      : context_(context),
        workers_(workers),
        guard_(context.watch, rpc),
        record_(context, rpc, method),
        end_(context, guard_, &record_, *this, response),
        lease_(context.buffers) {}
  void Begin(const grpc::ByteBuffer& message, Work work);

  CallContext& context_;
  WorkerPool& workers_;
  CallGuard guard_;
  CallRecord record_;
  UnaryEnd end_;
  BufferLease lease_;               // of the message
  std::shared_ptr<TextCall> self_;  // until OnDone

  Mutex mutex_;
  WorkerPool::Ticket ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace t2r::server

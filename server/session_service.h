// The t2r.v1.Sessions service.
#pragma once

#include "server/call_context.h"
#include "t2r/v1/sessions.grpc.pb.h"

namespace t2r::server {

// All methods take and give bytes; see messages.h.
using RawSessions = v1::Sessions::WithRawCallbackMethod_CreateSession<
    v1::Sessions::WithRawCallbackMethod_GetSession<v1::Sessions::WithRawCallbackMethod_ListSessions<
        v1::Sessions::WithRawCallbackMethod_ForkSession<
            v1::Sessions::WithRawCallbackMethod_DeleteSession<
                v1::Sessions::WithRawCallbackMethod_ExportSession<
                    v1::Sessions::WithRawCallbackMethod_ImportSession<v1::Sessions::Service>>>>>>>;

// Reactions only: what takes time happens on a worker.
class SessionService final : public RawSessions {
 public:
  // `context` must outlive the service and every RPC.
  explicit SessionService(CallContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* rpc,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* rpc,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* rpc,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ForkSession(grpc::CallbackServerContext* rpc,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* rpc,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportSession(
      grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* ImportSession(grpc::CallbackServerContext* rpc,
                                                           grpc::ByteBuffer* response) override;

 private:
  CallContext& context_;
};

}  // namespace t2r::server

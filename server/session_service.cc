#include "server/session_service.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/messages.h"
#include "server/session_messages.h"
#include "server/snapshot_calls.h"
#include "server/text_call.h"

namespace t2r::server {
namespace {

constexpr uint32_t kDefaultPage = 100;

void Answer(const SessionInfo& session, UnaryEnd& end) {
  end.record()->OnSession(session.id);
  v1::Session response;
  ToProto(session, &response);
  end.Answer(response);
}

absl::Status Do(const v1::CreateSessionRequest& request, SessionStore& store,
                const SessionOwner& owner, UnaryEnd& end) {
  const absl::StatusOr<absl::Duration> ttl = TtlOf(request.has_ttl(), request.ttl());
  if (!ttl.ok()) return ttl.status();
  const absl::StatusOr<SessionInfo> made = store.Create(request.id(), *ttl, owner);
  if (!made.ok()) return made.status();
  Answer(*made, end);
  return absl::OkStatus();
}

absl::Status Do(const v1::GetSessionRequest& request, SessionStore& store,
                const SessionOwner& owner, UnaryEnd& end) {
  const absl::StatusOr<SessionInfo> found = store.Get(request.id(), owner);
  if (!found.ok()) return found.status();
  Answer(*found, end);
  return absl::OkStatus();
}

absl::Status Do(const v1::ListSessionsRequest& request, SessionStore& store,
                const SessionOwner& owner, UnaryEnd& end) {
  const uint32_t size = request.page_size() == 0 ? kDefaultPage : request.page_size();
  if (size > kMaxSessionPage) {
    return absl::InvalidArgumentError(absl::StrCat("page_size: ", size, " is above the limit of ",
                                                   kMaxSessionPage, " sessions a page"));
  }
  // One more tells whether there is another page.
  absl::StatusOr<std::vector<SessionInfo>> sessions =
      store.List(request.page_token(), int64_t{size} + 1, owner);
  if (!sessions.ok()) return sessions.status();
  v1::ListSessionsResponse response;
  if (sessions->size() > size) {
    sessions->resize(size);
    response.set_next_page_token(sessions->back().id);
  }
  for (const SessionInfo& session : *sessions) ToProto(session, response.add_sessions());
  end.Answer(response);
  return absl::OkStatus();
}

absl::Status Do(const v1::ForkSessionRequest& request, SessionStore& store,
                const SessionOwner& owner, UnaryEnd& end) {
  const absl::StatusOr<std::vector<SessionInfo>> forks =
      store.Fork(request.id(), request.new_id(), std::max<int64_t>(request.count(), 1), owner);
  if (!forks.ok()) return forks.status();
  v1::ForkSessionResponse response;
  for (const SessionInfo& fork : *forks) ToProto(fork, response.add_sessions());
  end.Answer(response);
  return absl::OkStatus();
}

absl::Status Do(const v1::DeleteSessionRequest& request, SessionStore& store,
                const SessionOwner& owner, UnaryEnd& end) {
  absl::Status status = store.Delete(request.id(), owner);
  if (status.ok()) end.Answer(v1::DeleteSessionResponse());
  return status;
}

template <typename Request>
absl::Status Work(const grpc::ByteBuffer& message, const ServedModel& model,
                  const SessionOwner& owner, UnaryEnd& end) {
  Request request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return s;
  if constexpr (requires { request.id(); }) end.record()->OnSession(request.id());
  if (absl::Status s = CheckKeepsSessions(model); !s.ok()) return s;
  return Do(request, *model.sessions, owner, end);
}

// The call, for its caller's sessions.
template <typename Request>
grpc::ServerUnaryReactor* Start(CallContext& context, grpc::CallbackServerContext* rpc,
                                const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                const char* method) {
  return TextCall::Start(context, rpc, request, response, method, context.store_workers,
                         [owner = OwnerOf(context, *rpc)](const grpc::ByteBuffer& message,
                                                          const ServedModel& model, UnaryEnd& end) {
                           return Work<Request>(message, model, owner, end);
                         });
}

}  // namespace

grpc::ServerUnaryReactor* SessionService::CreateSession(grpc::CallbackServerContext* rpc,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return Start<v1::CreateSessionRequest>(context_, rpc, request, response,
                                         "t2r.v1.Sessions/CreateSession");
}

grpc::ServerUnaryReactor* SessionService::GetSession(grpc::CallbackServerContext* rpc,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return Start<v1::GetSessionRequest>(context_, rpc, request, response,
                                      "t2r.v1.Sessions/GetSession");
}

grpc::ServerUnaryReactor* SessionService::ListSessions(grpc::CallbackServerContext* rpc,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return Start<v1::ListSessionsRequest>(context_, rpc, request, response,
                                        "t2r.v1.Sessions/ListSessions");
}

grpc::ServerUnaryReactor* SessionService::ForkSession(grpc::CallbackServerContext* rpc,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return Start<v1::ForkSessionRequest>(context_, rpc, request, response,
                                       "t2r.v1.Sessions/ForkSession");
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(grpc::CallbackServerContext* rpc,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return Start<v1::DeleteSessionRequest>(context_, rpc, request, response,
                                         "t2r.v1.Sessions/DeleteSession");
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* SessionService::ExportSession(
    grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request) {
  return ExportCall::Start(context_, rpc, request);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* SessionService::ImportSession(
    grpc::CallbackServerContext* rpc, grpc::ByteBuffer* response) {
  return ImportCall::Start(context_, rpc, response);
}

}  // namespace t2r::server

// Client's calls of t2r.v1.Sessions.
#include <algorithm>
#include <utility>

#include "client/client_impl.h"

namespace t2r::client {
namespace {

// Of a piece of a snapshot: below what servers take by default.
constexpr size_t kPieceBytes = 256 << 10;

// method(stub, context, request, response), again where the server says so.
template <typename Response, typename Request, typename Method>
absl::StatusOr<Response> Call(v1::Sessions::Stub& stub, const Request& request,
                              const CallOptions& options, Method method) {
  if (absl::Status texts = CheckTexts(request); !texts.ok()) return texts;
  Response response;
  absl::Status status = CallWithRetries(options, [&](grpc::ClientContext* context) {
    return (stub.*method)(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::Status ToStatus(const grpc::Status& status) {
  return MakeStatus(status.error_code(), status.error_message(), status.error_details());
}

}  // namespace

absl::StatusOr<SessionInfo> Client::CreateSession(const std::string& id, absl::Duration ttl,
                                                  const CallOptions& options) {
  v1::CreateSessionRequest request;
  request.set_id(id);
  if (ttl != absl::ZeroDuration()) ToProto(ttl, request.mutable_ttl());
  const auto response =
      Call<v1::Session>(*impl_->sessions, request, options, &v1::Sessions::Stub::CreateSession);
  if (!response.ok()) return response.status();
  return FromProto(*response);
}

absl::StatusOr<SessionInfo> Client::GetSession(const std::string& id, const CallOptions& options) {
  v1::GetSessionRequest request;
  request.set_id(id);
  const auto response =
      Call<v1::Session>(*impl_->sessions, request, options, &v1::Sessions::Stub::GetSession);
  if (!response.ok()) return response.status();
  return FromProto(*response);
}

absl::StatusOr<SessionPage> Client::ListSessions(const std::string& token, uint32_t page_size,
                                                 const CallOptions& options) {
  v1::ListSessionsRequest request;
  request.set_page_token(token);
  request.set_page_size(page_size);
  const auto response = Call<v1::ListSessionsResponse>(*impl_->sessions, request, options,
                                                       &v1::Sessions::Stub::ListSessions);
  if (!response.ok()) return response.status();
  SessionPage page;
  for (const v1::Session& session : response->sessions()) {
    page.sessions.push_back(FromProto(session));
  }
  page.next = response->next_page_token();
  return page;
}

absl::StatusOr<std::vector<SessionInfo>> Client::ForkSession(const std::string& id,
                                                             const std::string& new_id,
                                                             uint32_t count,
                                                             const CallOptions& options) {
  v1::ForkSessionRequest request;
  request.set_id(id);
  request.set_new_id(new_id);
  request.set_count(count);
  const auto response = Call<v1::ForkSessionResponse>(*impl_->sessions, request, options,
                                                      &v1::Sessions::Stub::ForkSession);
  if (!response.ok()) return response.status();
  std::vector<SessionInfo> forks;
  for (const v1::Session& session : response->sessions()) forks.push_back(FromProto(session));
  return forks;
}

absl::Status Client::DeleteSession(const std::string& id, const CallOptions& options) {
  v1::DeleteSessionRequest request;
  request.set_id(id);
  return Call<v1::DeleteSessionResponse>(*impl_->sessions, request, options,
                                         &v1::Sessions::Stub::DeleteSession)
      .status();
}

absl::StatusOr<std::string> Client::ExportSession(const std::string& id,
                                                  const CallOptions& options) {
  v1::ExportSessionRequest request;
  request.set_id(id);
  if (absl::Status texts = CheckTexts(request); !texts.ok()) return texts;
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + options.timeout);
  const auto reader = impl_->sessions->ExportSession(&context, request);
  std::string snapshot;
  v1::SnapshotChunk chunk;
  while (reader->Read(&chunk)) snapshot += chunk.data();
  absl::Status status = ToStatus(reader->Finish());
  if (!status.ok()) return status;
  return snapshot;
}

absl::StatusOr<SessionInfo> Client::ImportSession(const std::string& id,
                                                  const std::string& snapshot, absl::Duration ttl,
                                                  const CallOptions& options, bool allow_inexact) {
  v1::ImportSessionRequest request;
  request.set_id(id);
  if (absl::Status texts = CheckTexts(request); !texts.ok()) return texts;
  if (ttl != absl::ZeroDuration()) ToProto(ttl, request.mutable_ttl());
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + options.timeout);
  request.set_allow_inexact(allow_inexact);
  v1::Session response;
  const auto writer = impl_->sessions->ImportSession(&context, &response);
  // The first message names the session, with or without data. A write fails when the server has
  // ended the call: its status says why.
  size_t at = 0;
  bool open = true;
  do {
    request.set_data(snapshot.substr(at, kPieceBytes));
    at += request.data().size();
    open = writer->Write(request);
    request.Clear();
  } while (open && at < snapshot.size());
  writer->WritesDone();
  absl::Status status = ToStatus(writer->Finish());
  if (!status.ok()) return status;
  return FromProto(response);
}

}  // namespace t2r::client

#include "server/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <set>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "server/messages.h"
#include "server/status.h"

namespace t2r::server {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1alpha::FileDescriptorResponse;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;

constexpr const char* kServices[] = {"t2r.v1.Generation", "t2r.v1.Sessions",
                                     "grpc.health.v1.Health",
                                     "grpc.reflection.v1alpha.ServerReflection"};

// The file after those that it imports.
void AddFile(const FileDescriptor& file, std::set<std::string>* seen, FileDescriptorResponse* out) {
  if (!seen->insert(file.name()).second) return;
  for (int i = 0; i < file.dependency_count(); ++i) AddFile(*file.dependency(i), seen, out);
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  proto.SerializeToString(out->add_file_descriptor_proto());
}

void AnswerFile(const FileDescriptor* file, ServerReflectionResponse* out) {
  if (file == nullptr) {
    out->mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
    out->mutable_error_response()->set_error_message("there is no such file or symbol here");
    return;
  }
  std::set<std::string> seen;
  AddFile(*file, &seen, out->mutable_file_descriptor_response());
}

ServerReflectionResponse Answer(ServerReflectionRequest request) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  ServerReflectionResponse out;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      AnswerFile(pool.FindFileByName(request.file_by_filename()), &out);
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      AnswerFile(pool.FindFileContainingSymbol(request.file_containing_symbol()), &out);
      break;
    case ServerReflectionRequest::kListServices:
      for (const char* name : kServices) {
        out.mutable_list_services_response()->add_service()->set_name(name);
      }
      break;
    default:
      // proto3 has no extensions.
      out.mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
      out.mutable_error_response()->set_error_message("there are no extensions here");
  }
  out.set_valid_host(request.host());
  *out.mutable_original_request() = std::move(request);
  return out;
}

// Reads, answers, reads on. Calls of gRPC come one after the other, but for OnCancel.
class Conversation final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Conversation(CallContext& context, grpc::CallbackServerContext& rpc)
      : context_(context), guard_(context.watch, rpc) {
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(grpc::Status::OK);
    ServerReflectionRequest request;
    const absl::Status status = ParseMessage(message_, &request);
    message_.Clear();
    if (!status.ok()) return End(ToGrpcStatus(status));
    message_ = ToBytes(Answer(std::move(request)));
    CutLater();
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override {
    message_.Clear();
    guard_.CutAt(absl::InfiniteFuture());
    if (!ok) return End(grpc::Status::CANCELLED);
    StartRead(&message_);
  }
  // A read or a write is in flight, and fails.
  void OnCancel() override {}
  void OnDone() override { delete this; }

 private:
  void End(const grpc::Status& status) {
    CutLater();
    Finish(status);
  }
  void CutLater() {
    const absl::Duration limit = context_.reading.stall_timeout;
    if (limit > absl::ZeroDuration()) guard_.CutAt(absl::Now() + limit);
  }

  CallContext& context_;
  CallGuard guard_;
  grpc::ByteBuffer message_;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext* rpc) {
  return new Conversation(context_, *rpc);
}

}  // namespace t2r::server

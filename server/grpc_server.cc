#include "server/grpc_server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/generation_service.h"
#include "server/health_service.h"

namespace t2r::server {
namespace {

// While it lives gRPC logs nothing: why it cannot listen is said in our status, in one line.
class QuietGrpc {
 public:
  QuietGrpc() {
    gpr_set_log_function([](gpr_log_func_args* /*line*/) {});
  }
  ~QuietGrpc() { gpr_set_log_function(nullptr); }
  QuietGrpc(const QuietGrpc&) = delete;
  QuietGrpc& operator=(const QuietGrpc&) = delete;
};

}  // namespace

struct GrpcServer::Impl {
  Impl(const GrpcServerOptions& options, Metrics& metrics)
      : workers(options.worker_threads, options.max_waiting_texts),
        context{host, metrics, workers, writes, options.outbox, options.stall_grace},
        generation(context) {}

  ModelHost host;
  WriteQueue writes;
  WorkerPool workers;
  HealthService health;
  CallContext context;
  GenerationService generation;
  std::string address;
  std::unique_ptr<grpc::Server> server;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              Metrics& metrics) {
  auto impl = std::make_unique<Impl>(options, metrics);
  static const bool reflection = [] {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)reflection;

  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port);
  // Without this a second server would share the port, silently.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_request_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
  // A frozen client is noticed only by pings: one after 20 s of silence, 10 s for the answer.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients may ping as often as that too.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.RegisterService(&impl->generation);
  builder.RegisterService(&impl->health);
  {
    const QuietGrpc quiet;
    impl->server = builder.BuildAndStart();
  }
  if (impl->server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.address,
                                               " (is the port taken, the host this machine's?)"));
  }
  impl->address = absl::StrCat(options.address.substr(0, options.address.rfind(':') + 1), port);
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

const std::string& GrpcServer::address() const { return impl_->address; }

void GrpcServer::SetModel(ServedModel* model) {
  impl_->host.Serve(model);
  impl_->health.SetServing(impl_->host.serving());
}

bool GrpcServer::serving() const { return impl_->host.serving(); }

void GrpcServer::DeviceFailed() {
  impl_->host.Fail();
  impl_->health.SetServing(impl_->host.serving());
}

void GrpcServer::StopTaking() {
  impl_->host.Drain();
  impl_->health.SetServing(false);
}

void GrpcServer::Shutdown(absl::Duration grace) {
  StopTaking();
  impl_->health.Shutdown();
  if (impl_->server != nullptr) {
    impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    impl_->server->Wait();
  }
  impl_->workers.Stop();
}

}  // namespace t2r::server

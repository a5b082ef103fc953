#include "server/grpc_server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/credentials.h"
#include "server/generation_service.h"
#include "server/health_service.h"
#include "server/reflection_service.h"
#include "server/session_service.h"

namespace t2r::server {
namespace {

int Milliseconds(absl::Duration time) {
  return static_cast<int>(std::max<int64_t>(absl::ToInt64Milliseconds(time), 1));
}

void SetLimits(const GrpcServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_request_bytes));
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              static_cast<int>(options.max_streams_per_connection));
  // A compressed message would be inflated before its size is looked at.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  // A frozen client is noticed only by pings.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              Milliseconds(options.keepalive_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              Milliseconds(options.keepalive_min_interval));
  if (options.max_connection_age > absl::ZeroDuration()) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                Milliseconds(options.max_connection_age));
  }
  if (options.max_connection_age_grace > absl::ZeroDuration()) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                                Milliseconds(options.max_connection_age_grace));
  }
  if (options.max_buffer_bytes > 0) {
    // What messages that are still arriving may hold; past it gRPC ends streams.
    grpc::ResourceQuota quota("server");
    quota.Resize(static_cast<size_t>(options.max_buffer_bytes));
    builder->SetResourceQuota(quota);
  }
}

}  // namespace

struct GrpcServer::Impl {
  // What calls are held to and written into; outlives them.
  struct Around {
    std::shared_ptr<Access> access;
    std::unique_ptr<Tenants> tenants;
    std::unique_ptr<AccessLog> access_log;  // null: none
    std::unique_ptr<TraceExporter> traces;  // null: none
  };

  Impl(const GrpcServerOptions& options, Metrics& metrics, Around given)
      : around(std::move(given)),
        buffers(options.max_buffer_bytes),
        imports(options.max_buffer_bytes / 2),
        peers(options.max_requests_per_peer),
        workers(options.worker_threads, options.max_waiting_texts),
        store_workers(options.store_threads, options.max_waiting_texts),
        context{host,
                metrics,
                workers,
                store_workers,
                writes,
                watch,
                buffers,
                imports,
                peers,
                *around.access,
                *around.tenants,
                options.outbox,
                options.reading,
                options.max_response_bytes,
                options.tell_memory,
                around.access_log.get(),
                around.traces.get(),
                options.trace_sample,
                options.log_prompts,
                options.checkpoint_tokens,
                options.resumable_streams},
        health(context),
        generation(context),
        sessions(context),
        reflection(context) {}

  static absl::StatusOr<Around> Open(const GrpcServerOptions& options, Metrics& metrics) {
    Around around;
    absl::StatusOr<std::shared_ptr<Access>> access = Access::Open(
        {.tls = options.tls, .api_keys = options.api_keys, .log = options.log}, metrics);
    if (!access.ok()) return access.status();
    around.access = *std::move(access);
    absl::StatusOr<std::unique_ptr<Tenants>> tenants =
        Tenants::Open({.file = options.tenants, .log = options.log}, metrics);
    if (!tenants.ok()) return tenants.status();
    around.tenants = *std::move(tenants);
    if (!options.access_log.empty()) {
      absl::StatusOr<std::unique_ptr<AccessLog>> log = AccessLog::Open(options.access_log);
      if (!log.ok()) return log.status();
      around.access_log = *std::move(log);
    }
    if (!options.otlp_endpoint.empty()) {
      around.traces = std::make_unique<TraceExporter>(options.otlp_endpoint);
    }
    return around;
  }

  void TellHealth() { health.Set(!host.failed() && !host.draining(), host.serving()); }

  const Around around;
  ModelHost host;
  BufferBudget buffers;
  BufferBudget imports;
  PeerShares peers;
  CallWatch watch;
  WriteQueue writes;
  WorkerPool workers;
  WorkerPool store_workers;
  CallContext context;
  HealthService health;
  GenerationService generation;
  SessionService sessions;
  ReflectionService reflection;
  std::string greeting;
  std::shared_ptr<grpc::ServerCredentials> credentials;  // gRPC asks it for as long as it serves
  std::unique_ptr<Listener> listener;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              Metrics& metrics) {
  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Open(options.address);
  if (!listener.ok()) return listener.status();
  absl::StatusOr<Impl::Around> around = Impl::Open(options, metrics);
  if (!around.ok()) return around.status();
  auto impl = std::make_unique<Impl>(options, metrics, *std::move(around));
  impl->greeting = impl->around.access->greeting();
  impl->credentials = Access::MakeCredentials(impl->around.access);
  impl->listener = *std::move(listener);
  grpc::ServerBuilder builder;
  SetLimits(options, &builder);
  builder.RegisterService(&impl->generation);
  builder.RegisterService(&impl->sessions);
  builder.RegisterService(&impl->health);
  if (options.reflection) builder.RegisterService(&impl->reflection);
  impl->acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, impl->credentials);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) return absl::UnavailableError("gRPC does not start");
  impl->listener->Start(options.connections, [acceptor = impl->acceptor.get()](int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    acceptor->HandleNewConnection(&connection);
  });
  metrics.WatchEdge(
      {.connections = [at = impl->listener.get()] { return at->open(); },
       .refused_connections = [at = impl->listener.get()] { return at->refused(); },
       .buffer_bytes = [at = &impl->buffers] { return at->used(); },
       .lost_lines =
           [at = impl->around.access_log.get()] { return at == nullptr ? 0 : at->dropped(); },
       .traces_sent = [at = impl->around.traces.get()] { return at == nullptr ? 0 : at->sent(); },
       .traces_dropped =
           [at = impl->around.traces.get()] { return at == nullptr ? 0 : at->dropped(); }});
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

std::shared_ptr<const Access> GrpcServer::access() const { return impl_->around.access; }

const std::string& GrpcServer::address() const { return impl_->listener->address(); }

void GrpcServer::SetModel(ServedModel* model) {
  if (model->sessions != nullptr) {
    impl_->context.metrics.WatchSessions(
        {.in_memory = [at = model->sessions.get()] { return at->in_memory(); },
         .on_disk = [at = model->sessions.get()] { return at->on_disk(); },
         .shared =
             [at = model->sessions.get()] {
               return at->has_shared() ? at->kept() : SessionUsage();
             }});
  }
  impl_->host.Serve(model);
  impl_->TellHealth();
}

bool GrpcServer::failed() const { return impl_->host.failed(); }
bool GrpcServer::serving() const { return impl_->host.serving(); }

bool GrpcServer::Answers(absl::Duration timeout) {
  return impl_->listener->Answers(timeout, impl_->greeting);
}

void GrpcServer::DeviceFailed() {
  impl_->host.Fail();
  impl_->TellHealth();
}

void GrpcServer::StopTaking() {
  impl_->host.Drain();
  impl_->TellHealth();
}

void GrpcServer::FinishTexts(absl::Time deadline) {
  // In the order in which one hands work to the other.
  impl_->workers.WaitUntilIdle(deadline);
  impl_->store_workers.WaitUntilIdle(deadline);
}

void GrpcServer::Shutdown(absl::Duration grace) {
  StopTaking();
  impl_->context.metrics.WatchEdge({});
  impl_->context.metrics.WatchSessions({});
  impl_->listener->Stop();
  impl_->health.Shutdown();
  impl_->workers.Stop();
  impl_->store_workers.Stop();
  if (impl_->server != nullptr) {
    impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    impl_->server->Wait();
    impl_->server = nullptr;
  }
}

}  // namespace t2r::server

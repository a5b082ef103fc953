#include "client/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_interceptor.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client_impl.h"
#include "client/wire.h"

namespace t2r::client {
namespace {

constexpr absl::Duration kHealthInterval = absl::Milliseconds(100);

absl::Status AwaitConnection(grpc::Channel& channel, const std::string& target,
                             absl::Duration timeout) {
  const auto deadline = absl::ToChronoTime(absl::Now() + timeout);
  grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE) {
      return absl::UnavailableError(absl::StrCat("cannot connect to ", target));
    }
    if (!channel.WaitForStateChange(state, deadline)) {
      return absl::UnavailableError(
          absl::StrCat("no server answers at ", target, " within ", absl::FormatDuration(timeout)));
    }
    state = channel.GetState(/*try_to_connect=*/true);
  }
  return absl::OkStatus();
}

// Adds the API key to the headers of every call.
class KeySender final : public grpc::experimental::Interceptor {
 public:
  explicit KeySender(std::string header) : header_(std::move(header)) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", header_);
    }
    methods->Proceed();
  }

 private:
  const std::string header_;
};

class KeySenders final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit KeySenders(const std::string& key) : header_(absl::StrCat("Bearer ", key)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* /*info*/) override {
    return new KeySender(header_);
  }

 private:
  const std::string header_;
};

std::shared_ptr<grpc::ChannelCredentials> MakeCredentials(const ConnectOptions& options) {
  if (!options.tls) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = options.tls->ca,
                               .pem_private_key = options.tls->key,
                               .pem_cert_chain = options.tls->certificate});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& target,
                                                        const ConnectOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options.max_receive_bytes));
  // A server that vanished without a word is noticed within 30 s, while calls run.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Two clients of one process are two connections.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto impl = std::make_unique<Impl>();
  impl->target = target;
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> senders;
  if (!options.api_key.empty()) senders.push_back(std::make_unique<KeySenders>(options.api_key));
  impl->channel = grpc::experimental::CreateCustomChannelWithInterceptors(
      target, MakeCredentials(options), arguments, std::move(senders));
  if (options.connect_timeout > absl::ZeroDuration()) {
    const absl::Status status = AwaitConnection(*impl->channel, target, options.connect_timeout);
    if (!status.ok()) return status;
  }
  impl->stub = v1::Generation::NewStub(impl->channel);
  impl->sessions = v1::Sessions::NewStub(impl->channel);
  impl->health = grpc::health::v1::Health::NewStub(impl->channel);
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Client::~Client() {
  MutexLock lock(impl_->mutex);
  std::vector<GenerateCall> running;
  for (const auto& [pointer, call] : impl_->calls) running.emplace_back(call);
  lock.Unlock();
  for (const GenerateCall& call : running) call.Cancel();
  lock.Lock();
  while (!impl_->calls.empty()) impl_->no_calls.Wait(lock);
}

GenerateCall Client::StartGenerate(const GenerateRequest& request, const CallOptions& options,
                                   EventCallback on_event, DoneCallback on_done) {
  if (!on_done) on_done = [](const absl::Status&) {};
  const auto call = impl_->NewCall(request, options, std::move(on_event), std::move(on_done));
  call->Start();
  return GenerateCall(call);
}

absl::Status Client::Generate(const GenerateRequest& request, const CallOptions& options,
                              const std::function<bool(const Event&)>& on_event) {
  struct {
    Mutex mutex;
    CondVar changed;
    bool done ABSL_GUARDED_BY(mutex) = false;
    absl::Status status ABSL_GUARDED_BY(mutex);
  } result;
  GenerateCall handle;
  bool stopped = false;  // callbacks of one call are serial
  const auto call = impl_->NewCall(
      request, options,
      [&](const Event& event) {
        if (!on_event || stopped || on_event(event)) return;
        stopped = true;
        handle.Cancel();
      },
      [&](const absl::Status& status) {
        const MutexLock lock(result.mutex);
        result.status = status;
        result.done = true;
        result.changed.NotifyAll();
      });
  handle = GenerateCall(call);
  call->Start();
  MutexLock lock(result.mutex);
  while (!result.done) result.changed.Wait(lock);
  return result.status;
}

absl::StatusOr<ScoreResult> Client::Score(const Prompt& target, const CallOptions& options) {
  return impl_->Score(ToScoreProto(nullptr, target), options);
}

absl::StatusOr<ScoreResult> Client::ScoreTranslation(const Prompt& source, const Prompt& target,
                                                     const CallOptions& options) {
  return impl_->Score(ToScoreProto(&source, target), options);
}

absl::StatusOr<TokenIds> Client::Tokenize(const std::string& text, const CallOptions& options) {
  v1::TokenizeRequest request;
  request.set_text(text);
  if (absl::Status texts = CheckTexts(request); !texts.ok()) return texts;
  v1::TokenizeResponse response;
  absl::Status status = CallWithRetries(options, [&](grpc::ClientContext* context) {
    return impl_->stub->Tokenize(context, request, &response);
  });
  if (!status.ok()) return status;
  return TokenIds(response.tokens().ids().begin(), response.tokens().ids().end());
}

absl::StatusOr<std::string> Client::Detokenize(const TokenIds& tokens, const CallOptions& options) {
  v1::DetokenizeRequest request;
  request.mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.end());
  v1::DetokenizeResponse response;
  absl::Status status = CallWithRetries(options, [&](grpc::ClientContext* context) {
    return impl_->stub->Detokenize(context, request, &response);
  });
  if (!status.ok()) return status;
  return std::move(*response.mutable_text());
}

absl::StatusOr<ModelInfo> Client::GetModel(const CallOptions& options) {
  const v1::GetModelRequest request;
  v1::GetModelResponse response;
  absl::Status status = CallWithRetries(options, [&](grpc::ClientContext* context) {
    return impl_->stub->GetModel(context, request, &response);
  });
  if (!status.ok()) return status;
  return FromProto(response);
}

absl::Status Client::WaitUntilServing(const CallOptions& options) {
  const absl::Time deadline = absl::Now() + options.timeout;
  while (true) {
    grpc::ClientContext context;
    SetDeadline(context, deadline);
    context.set_wait_for_ready(true);
    grpc::health::v1::HealthCheckRequest request;
    request.set_service("t2r.v1.Generation");  // "" would only say that the process lives
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = impl_->health->Check(&context, request, &response);
    if (status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING) {
      return absl::OkStatus();
    }
    if (absl::Now() + kHealthInterval >= deadline) {
      return absl::UnavailableError(absl::StrCat(
          impl_->target, " is not serving: ",
          status.ok() ? grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status())
          : status.error_code() == grpc::DEADLINE_EXCEEDED ? "no answer"
                                                           : status.error_message()));
    }
    absl::SleepFor(kHealthInterval);
  }
}

}  // namespace t2r::client

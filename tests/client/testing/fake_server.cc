#include "tests/client/testing/fake_server.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "t2r/v1/generation.grpc.pb.h"

namespace t2r::client {

struct FakeServer::Impl final : v1::Generation::Service, grpc::health::v1::Health::Service {
  using Writer = grpc::ServerWriter<v1::GenerateResponse>;

  explicit Impl(FakeServer* fake) : owner(fake) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::Generation::Service*>(this));
    builder.RegisterService(static_cast<grpc::health::v1::Health::Service*>(this));
    server = builder.BuildAndStart();
    if (server == nullptr) throw std::runtime_error("the fake server cannot listen");
  }

  ~Impl() override { server->Shutdown(std::chrono::system_clock::now()); }

  // Counts a call; not OK: refuse it.
  grpc::Status Enter() {
    const std::lock_guard<std::mutex> lock(mutex);
    ++attempts;
    if (owner->refusals <= 0) return grpc::Status::OK;
    --owner->refusals;
    google::rpc::RetryInfo info;
    const int64_t ms = owner->retry_delay_ms;
    info.mutable_retry_delay()->set_seconds(ms / 1000);
    info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(ms % 1000 * 1'000'000));
    google::rpc::Status rich;
    rich.set_code(grpc::RESOURCE_EXHAUSTED);
    rich.add_details()->PackFrom(info);
    return {grpc::RESOURCE_EXHAUSTED, "the queue is full", rich.SerializeAsString()};
  }

  static void UntilCancelled(const grpc::ServerContext& context) {
    while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  static void WriteDelta(uint32_t first, uint32_t count, bool text, bool logprobs, Writer* writer) {
    v1::GenerateResponse response;
    v1::Delta& delta = *response.mutable_delta();
    for (uint32_t i = first; i < first + count; ++i) {
      delta.add_token_ids(100 + i);
      if (text) delta.mutable_text()->push_back(static_cast<char>('a' + i % 26));
      if (!logprobs) continue;
      v1::TokenLogprobs& token = *delta.add_logprobs();
      token.mutable_chosen()->set_token_id(100 + i);
      token.mutable_chosen()->set_logprob(-0.25f);
      v1::Logprob& top = *token.add_top();
      top.set_token_id(9);
      top.set_logprob(-0.125f);
    }
    writer->Write(response);
  }

  static void WriteFinished(v1::FinishReason reason, uint32_t tokens, Writer* writer) {
    v1::GenerateResponse response;
    response.mutable_finished()->set_reason(reason);
    response.mutable_finished()->mutable_usage()->set_generated_tokens(tokens);
    response.mutable_finished()->mutable_usage()->mutable_decode_time()->set_nanos(5'000'000);
    writer->Write(response);
  }

  static void WriteHypotheses(uint32_t count, Writer* writer) {
    v1::GenerateResponse response;
    v1::Finished& finished = *response.mutable_finished();
    finished.set_reason(count > 1 ? v1::FINISH_REASON_EOS : v1::FINISH_REASON_LENGTH);
    for (uint32_t i = 0; i < count; ++i) {
      v1::Hypothesis& hypothesis = *finished.add_hypotheses();
      for (uint32_t j = 0; j <= i; ++j) {
        hypothesis.mutable_text()->push_back(static_cast<char>('a' + j));
        hypothesis.add_token_ids(100 + j);
      }
      hypothesis.set_score(-0.5f * static_cast<float>(i + 1));
      hypothesis.set_reason(i + 1 < count ? v1::FINISH_REASON_EOS : v1::FINISH_REASON_LENGTH);
    }
    finished.mutable_usage()->set_generated_tokens(count * (count + 1) / 2);
    writer->Write(response);
  }

  grpc::Status Stream(const grpc::ServerContext& context, const v1::GenerateRequest& request,
                      Writer* writer) {
    const std::string& prompt = request.text();
    if (prompt == "invalid") return {grpc::INVALID_ARGUMENT, "top_p is 7; it must be in (0, 1]"};
    if (prompt == "silent") {
      UntilCancelled(context);
      return grpc::Status::CANCELLED;
    }
    const uint32_t max_tokens = request.max_tokens() == 0 ? 4 : request.max_tokens();
    v1::GenerateResponse started;
    started.mutable_started()->set_seed(request.sampling().has_seed() ? request.sampling().seed()
                                                                      : 7);
    started.mutable_started()->set_prompt_tokens(request.has_tokens()
                                                     ? request.tokens().ids_size()
                                                     : static_cast<uint32_t>(prompt.size()) + 1);
    started.mutable_started()->set_max_tokens(max_tokens);
    writer->Write(started);
    if (prompt == "unfinished") return grpc::Status::OK;
    const bool logprobs = request.logprobs() > 0;
    if (prompt == "endless") {
      WriteDelta(0, 1, true, logprobs, writer);
      UntilCancelled(context);
      return grpc::Status::CANCELLED;
    }
    if (prompt == "drained") {
      WriteDelta(0, 1, true, logprobs, writer);
      WriteFinished(v1::FINISH_REASON_DRAINED, 1, writer);
      return {grpc::UNAVAILABLE, "the server is shutting down"};
    }
    if (request.has_beams()) {
      WriteHypotheses(request.beams().num_return(), writer);
      return grpc::Status::OK;
    }
    const uint32_t step = owner->tokens_per_delta;
    for (uint32_t i = 0; i < max_tokens && !context.IsCancelled(); i += step) {
      WriteDelta(i, std::min(step, max_tokens - i), prompt != "textless", logprobs, writer);
    }
    WriteFinished(v1::FINISH_REASON_LENGTH, max_tokens, writer);
    return grpc::Status::OK;
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        Writer* writer) override {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      last_request = request->ShortDebugString();
      max_open = std::max(max_open, ++open);
    }
    grpc::Status status = Enter();
    if (status.ok()) status = Stream(*context, *request, writer);
    const std::lock_guard<std::mutex> lock(mutex);
    --open;
    if (context->IsCancelled()) ++cancelled;
    changed.notify_all();
    return status;
  }

  grpc::Status Score(grpc::ServerContext* /*context*/, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    if (grpc::Status status = Enter(); !status.ok()) return status;
    if (request->has_text()) {
      Encode(request->text(), response->mutable_tokens());
    } else {
      *response->mutable_tokens() = request->tokens();
    }
    for (int i = 1; i < response->tokens().ids_size(); ++i) response->add_logprobs(-0.5f);
    return grpc::Status::OK;
  }

  static void Encode(const std::string& text, v1::TokenIds* tokens) {
    tokens->add_ids(1);
    for (const char c : text) tokens->add_ids(static_cast<unsigned char>(c));
  }

  grpc::Status Tokenize(grpc::ServerContext* /*context*/, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    if (grpc::Status status = Enter(); !status.ok()) return status;
    Encode(request->text(), response->mutable_tokens());
    return grpc::Status::OK;
  }

  grpc::Status Detokenize(grpc::ServerContext* /*context*/, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    if (grpc::Status status = Enter(); !status.ok()) return status;
    for (const uint32_t id : request->tokens().ids()) {
      if (id > 1) response->mutable_text()->push_back(static_cast<char>(id));
    }
    return grpc::Status::OK;
  }

  grpc::Status GetModel(grpc::ServerContext* /*context*/, const v1::GetModelRequest* /*request*/,
                        v1::GetModelResponse* response) override {
    if (grpc::Status status = Enter(); !status.ok()) return status;
    response->set_name("fake");
    response->set_architecture("llama");
    for (const char* type : {"linear_attention", "full_attention", "linear_attention"}) {
      response->add_layer_types(type);
    }
    response->set_feature_map("t2r");
    response->set_feature_size(32);
    response->set_state_bytes_per_session(123'456);
    response->set_kv_bytes_per_position(512);
    response->set_vocab_size(300);
    response->add_eos_token_ids(2);
    response->set_bos_token_id(1);
    response->set_has_tokenizer(true);
    response->set_parameters_bytes(1'048'576);
    response->set_dtype("bfloat16");
    response->set_backend("cpu");
    response->set_encoder_decoder(owner->encoder_decoder);
    response->mutable_defaults()->set_temperature(0.5F);
    response->mutable_defaults()->set_top_k(40);
    response->mutable_defaults()->set_max_tokens(77);
    response->mutable_memory()->set_prefix_cache_bytes(5'000);
    response->mutable_limits()->set_max_response_bytes(4 << 20);
    response->mutable_limits()->set_max_sessions(64);
    response->mutable_limits()->set_max_positions(2'000);
    response->mutable_limits()->set_max_tokens(owner->max_tokens_limit);
    return grpc::Status::OK;
  }

  grpc::Status Check(grpc::ServerContext* /*context*/,
                     const grpc::health::v1::HealthCheckRequest* /*request*/,
                     grpc::health::v1::HealthCheckResponse* response) override {
    response->set_status(owner->health_failures-- > 0
                             ? grpc::health::v1::HealthCheckResponse::NOT_SERVING
                             : grpc::health::v1::HealthCheckResponse::SERVING);
    return grpc::Status::OK;
  }

  FakeServer* const owner;
  int port = 0;
  std::unique_ptr<grpc::Server> server;

  std::mutex mutex;  // guards the rest
  std::condition_variable changed;
  int attempts = 0;
  int open = 0;
  int max_open = 0;
  int cancelled = 0;
  std::string last_request;
};

FakeServer::FakeServer() : impl_(std::make_unique<Impl>(this)) {}
FakeServer::~FakeServer() = default;

std::string FakeServer::address() const { return "127.0.0.1:" + std::to_string(impl_->port); }

int FakeServer::attempts() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->attempts;
}

int FakeServer::max_concurrent() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->max_open;
}

std::string FakeServer::last_request() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->last_request;
}

bool FakeServer::WaitForCancelled(int streams) const {
  std::unique_lock<std::mutex> lock(impl_->mutex);
  return impl_->changed.wait_for(lock, std::chrono::minutes(1),
                                 [&] { return impl_->cancelled >= streams; });
}

}  // namespace t2r::client

#include "tests/server/testing/test_server.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "engine/model/architectures.h"

namespace t2r::server {

Stream::Stream(v1::Generation::Stub& stub, const v1::GenerateRequest& request,
               absl::Duration timeout) {
  context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  reader_ = stub.Generate(&context_, request);
}

void Stream::Keep(const v1::GenerateResponse& event) {
  EXPECT_FALSE(finished) << "an event after Finished: " << event.ShortDebugString();
  switch (event.event_case()) {
    case v1::GenerateResponse::kStarted:
      EXPECT_FALSE(started);
      started = event.started();
      break;
    case v1::GenerateResponse::kDelta:
      EXPECT_TRUE(started) << "a Delta before Started";
      ids.insert(ids.end(), event.delta().token_ids().begin(), event.delta().token_ids().end());
      texts.push_back(event.delta().text());
      positions.push_back(event.delta().position());
      logprobs.insert(logprobs.end(), event.delta().logprobs().begin(),
                      event.delta().logprobs().end());
      break;
    case v1::GenerateResponse::kFinished:
      finished = event.finished();
      break;
    case v1::GenerateResponse::EVENT_NOT_SET:
      ADD_FAILURE() << "an empty event";
  }
}

bool Stream::WaitForDelta() {
  v1::GenerateResponse event;
  while (Next(&event)) {
    Keep(event);
    if (event.has_delta()) return true;
  }
  return false;
}

grpc::Status Stream::Finish() {
  v1::GenerateResponse event;
  while (Next(&event)) Keep(event);
  return reader_->Finish();
}

std::string Stream::text() const {
  std::string all;
  for (const std::string& part : texts) all += part;
  return all;
}

TestServer::TestServer(TestServerOptions given)
    : options(std::move(given)), executor(options.executor) {
  options.grpc.address = "127.0.0.1:0";
  if (options.next_token) executor.set_next_token(options.next_token);
  if (options.alternatives) executor.set_alternatives(options.alternatives);
  executor.set_keep_records(false);
  absl::StatusOr<std::unique_ptr<GrpcServer>> started = GrpcServer::Start(options.grpc, metrics);
  if (!started.ok()) {
    ADD_FAILURE() << started.status();
    std::abort();
  }
  server = *std::move(started);
  grpc::ChannelArguments arguments;
  // Its own connection and small windows: a client that does not read is felt soon.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  channel =
      grpc::CreateCustomChannel(server->address(), grpc::InsecureChannelCredentials(), arguments);
  stub = v1::Generation::NewStub(channel);
  health = grpc::health::v1::Health::NewStub(channel);
  if (options.load) Load();
}

void TestServer::Load() {
  model = std::make_unique<ServedModel>();
  if (options.tokenizer) {
    auto bytes = std::make_unique<ByteTokenizer>();
    bytes->before_encode = options.before_encode;
    tokenizer = bytes.get();
    model->tokenizer = std::move(bytes);
  }
  ModelConfig config;
  config.layer_types = {LayerType::kLinearAttention, LayerType::kFullAttention};
  config.linear_attention.emplace().feature_size = 32;
  config.eos_token_ids = options.scheduler.eos_token_ids;
  config.bos_token_id = ByteTokenizer::kBos;
  config.default_temperature = options.temperature;
  config.defaults = options.defaults;
  if (options.executor.source_vocab_size > 0) {
    config.architecture = &kMarianArchitecture;
    config.encoder_decoder.emplace();
    config.encoder_decoder->encoder_layers = 3;
    config.encoder_decoder->decoder_start_token_id = TestServer::kStart;
    config.encoder_decoder->cross_layer_types = {LayerType::kFullAttention,
                                                 LayerType::kLinearAttention};
  }
  ServerOptions flags;
  flags.model = "/some/where/tiny";
  flags.max_tokens = options.max_tokens;
  flags.grpc = options.grpc;
  flags.scheduler = options.scheduler;
  flags.max_text_bytes = options.max_text_bytes;
  model->limits = LimitsOf(config, options.executor, flags);
  model->info = DescribeModel(config, options.executor, flags);
  if (options.sessions.memory_bytes > 0) {
    auto sessions = SessionStore::Open(options.executor, "test", options.sessions);
    if (!sessions.ok()) std::abort();
    model->sessions = *std::move(sessions);
  }
  metrics.SetModel(options.executor.slots, options.executor.state_bytes);
  options.scheduler.on_failure = [this](const absl::Status& /*health*/) { server->DeviceFailed(); };
  model->scheduler =
      std::make_unique<Scheduler>(executor, model->tokenizer.get(), &metrics, options.scheduler);
  server->SetModel(model.get());
}

void TestServer::Drain(absl::Duration deadline) {
  server->StopTaking();
  if (model != nullptr) model->scheduler->Drain(absl::Now() + deadline);
  server->Shutdown(absl::Seconds(10));
}

TestServer::~TestServer() {
  executor.AllowAll();
  Drain(absl::ZeroDuration());
  if (model != nullptr) model->scheduler.reset();
}

double TestServer::Metric(const std::string& name) const {
  std::istringstream page(metrics.Text());
  for (std::string line; std::getline(page, line);) {
    if (line.compare(0, name.size() + 1, name + " ") == 0)
      return std::stod(line.substr(name.size()));
  }
  return 0;
}

double TestServer::Finishes() const {
  double sum = 0;
  for (const char* reason : {"stop", "length", "eos", "cancelled", "deadline", "drained", "stalled",
                             "error", "scored"}) {
    sum += Metric(std::string("t2r_request_success_total{finished_reason=\"") + reason + "\"}");
  }
  return sum;
}

v1::GenerateRequest TokenRequest(const std::vector<uint32_t>& ids, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
  request.set_max_tokens(max_tokens);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

v1::GenerateRequest TextRequest(const std::string& text, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.set_max_tokens(max_tokens);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

bool WaitUntil(const std::function<bool()>& condition) {
  const absl::Time limit = absl::Now() + absl::Minutes(1);
  while (!condition()) {
    if (absl::Now() > limit) {
      ADD_FAILURE() << "waited a minute in vain";
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace t2r::server

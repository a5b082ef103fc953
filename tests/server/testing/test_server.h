// The whole gRPC edge in this process, over a fake executor.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/grpc_server.h"
#include "t2r/v1/generation.grpc.pb.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/server/testing/byte_tokenizer.h"

namespace t2r::server {

inline ExecutorLimits TestLimits() {
  ExecutorLimits limits;
  limits.slots = 4;
  limits.max_step_tokens = 64;
  limits.vocab_size = ByteTokenizer::kVocab;
  return limits;
}

inline SessionStoreOptions NoSessions() {
  SessionStoreOptions options;
  options.memory_bytes = 0;
  return options;
}

struct TestServerOptions {
  ExecutorLimits executor = TestLimits();
  SchedulerOptions scheduler;
  GrpcServerOptions grpc;
  SessionStoreOptions sessions = NoSessions();
  int64_t max_tokens = 1 << 20;
  int64_t max_text_bytes = 0;
  // As the model's generation_config.json gives them.
  std::optional<float> temperature;
  ModelConfig::GenerationDefaults defaults;
  bool tokenizer = true;
  bool load = true;  // false: the model is not there until Load
  FakeExecutor::NextToken next_token;
  FakeExecutor::Alternatives alternatives;
  std::function<void()> before_encode;
};

// A Generate call as a client sees it.
class Stream {
 public:
  Stream(v1::Generation::Stub& stub, const v1::GenerateRequest& request,
         absl::Duration timeout = absl::Seconds(60));

  bool Next(v1::GenerateResponse* event) { return reader_->Read(event); }
  // Reads on until a Delta has come; false if the stream ended before.
  bool WaitForDelta();
  // Reads to the end.
  grpc::Status Finish();
  void Cancel() { context_.TryCancel(); }

  // What has been read so far.
  std::optional<v1::Started> started;
  std::vector<int32_t> ids;
  std::vector<std::string> texts;   // of each delta
  std::vector<uint64_t> positions;  // likewise
  std::vector<v1::TokenLogprobs> logprobs;
  std::optional<v1::Finished> finished;

  std::string text() const;

 private:
  void Keep(const v1::GenerateResponse& event);

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
};

class TestServer {
 public:
  // The decoder's start token where the executor's limits are an encoder-decoder's.
  static constexpr int32_t kStart = ByteTokenizer::kBos;

  explicit TestServer(TestServerOptions options = {});
  ~TestServer();

  void Load();
  // StopTaking, Scheduler::Drain until `deadline` from now, Shutdown.
  void Drain(absl::Duration deadline);

  std::unique_ptr<Stream> Generate(const v1::GenerateRequest& request,
                                   absl::Duration timeout = absl::Seconds(60)) {
    return std::make_unique<Stream>(*stub, request, timeout);
  }
  // The value of a metric's line, `name` with its labels; 0 when there is none.
  double Metric(const std::string& name) const;
  // All t2r_request_success_total.
  double Finishes() const;

  TestServerOptions options;
  FakeExecutor executor;
  Metrics metrics;
  ByteTokenizer* tokenizer = nullptr;  // of the model; null without
  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<ServedModel> model;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Generation::Stub> stub;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

// A Generate request for token ids, greedy.
v1::GenerateRequest TokenRequest(const std::vector<uint32_t>& ids, uint32_t max_tokens);
v1::GenerateRequest TextRequest(const std::string& text, uint32_t max_tokens);

// Until `condition` holds; fails the test and returns false after a minute.
bool WaitUntil(const std::function<bool()>& condition);

}  // namespace t2r::server

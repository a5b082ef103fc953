// t2r-bench-raw-stream: answers Generate with messages made beforehand, as fast as gRPC serialises
// and takes them: nothing lies behind it.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "flags/help.h"
#include "t2r/v1/generation.grpc.pb.h"

namespace t2r::bench {
namespace {

constexpr uint32_t kVocabulary = 2048;

// A Delta as t2r-server sends it, of tokens of four letters each.
v1::GenerateResponse MakeDelta(int64_t tokens) {
  v1::GenerateResponse response;
  v1::Delta& delta = *response.mutable_delta();
  for (int64_t i = 0; i < tokens; ++i) {
    const auto id = static_cast<uint32_t>(kVocabulary / 2 + i % (kVocabulary / 2));
    delta.mutable_text()->append("word");
    delta.add_token_ids(id);
    v1::Logprob& chosen = *delta.add_logprobs()->mutable_chosen();
    chosen.set_token_id(id);
    chosen.set_logprob(-1.0F);
  }
  return response;
}

v1::GenerateResponse MakeStarted() {
  v1::GenerateResponse response;
  response.mutable_started()->set_seed(1);
  return response;
}

v1::GenerateResponse MakeFinished() {
  v1::GenerateResponse response;
  response.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
  return response;
}

// What all streams send, by reference.
struct Messages {
  explicit Messages(int64_t tokens_a_message)
      : tokens(tokens_a_message), delta(MakeDelta(tokens_a_message)) {}
  const int64_t tokens;
  const v1::GenerateResponse started = MakeStarted();
  const v1::GenerateResponse delta;
  const v1::GenerateResponse finished = MakeFinished();
};

class Stream final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  Stream(const Messages& messages, int64_t tokens) : messages_(messages), left_(tokens) {
    StartWrite(&messages_.started);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::CANCELLED);
    } else if (left_ == 0) {
      StartWriteAndFinish(&messages_.finished, grpc::WriteOptions(), grpc::Status::OK);
    } else if (left_ >= messages_.tokens) {
      left_ -= messages_.tokens;
      StartWrite(&messages_.delta);
    } else {
      rest_ = MakeDelta(std::exchange(left_, 0));
      StartWrite(&rest_);
    }
  }
  void OnDone() override { delete this; }

 private:
  const Messages& messages_;
  int64_t left_;               // tokens
  v1::GenerateResponse rest_;  // of fewer tokens than a message has
};

class RawService final : public v1::Generation::WithCallbackMethod_Generate<
                             v1::Generation::WithCallbackMethod_GetModel<v1::Generation::Service>> {
 public:
  explicit RawService(int64_t tokens_a_message) : messages_(tokens_a_message) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* /*rpc*/, const v1::GenerateRequest* request) override {
    return new Stream(messages_, request->max_tokens());
  }
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* rpc,
                                     const v1::GetModelRequest* /*request*/,
                                     v1::GetModelResponse* response) override {
    response->set_name("raw");
    response->set_vocab_size(kVocabulary);
    grpc::ServerUnaryReactor* reactor = rpc->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const Messages messages_;
};

int Run(const std::string& address, int64_t tokens_a_message) {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  RawService service(tokens_a_message);
  const size_t colon = address.rfind(':');
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::cerr << "t2r-bench-raw-stream: cannot listen on " << address << "\n";
    return 1;
  }
  std::cout << "grpc: listening on " << address.substr(0, colon) << ":" << port << std::endl;
  int signal = 0;
  sigwait(&ends, &signal);
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

}  // namespace
}  // namespace t2r::bench

int main(int argc, char** argv) {
  std::string address = "127.0.0.1:0";
  int64_t tokens = 1;
  CLI::App app("Streams messages that were made beforehand: the limit of gRPC's generated code.",
               "t2r-bench-raw-stream");
  t2r::flags::Describe(&app);
  app.add_option("--listen", address, "gRPC address; port 0 takes a free one, which is printed")
      ->type_name("HOST:PORT");
  app.add_option("--tokens-a-message", tokens, "Tokens of a message")
      ->check(t2r::flags::Range(int64_t{1}, int64_t{4096}));
  if (const auto code = t2r::flags::Parse(&app, argc, argv)) return *code;
  return t2r::bench::Run(address, tokens);
}

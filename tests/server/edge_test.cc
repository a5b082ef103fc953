// What clients may do to the RPCs: malformed and compressed messages, texts given up, answers that
// nobody reads, too much at once.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <future>
#include <mutex>

#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;

// Calls a unary or server-streaming method with these bytes.
grpc::Status CallWith(TestServer& server, const std::string& method, const std::string& bytes,
                      grpc_compression_algorithm compression = GRPC_COMPRESS_NONE) {
  grpc::GenericStub stub(server.channel);
  grpc::ClientContext context;
  context.set_compression_algorithm(compression);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  return done.get_future().get();
}

TEST(MalformedTest, GetsInvalidArgumentNamingFieldAndByte) {
  TestServer server;
  const std::string invalid_text("\x0a\x04ok\xff!", 6);
  const struct {
    const char* method;
    std::string bytes;
    const char* named;
  } cases[] = {
      {"/t2r.v1.Generation/Generate", invalid_text, "text: not valid UTF-8 at byte 2"},
      {"/t2r.v1.Generation/Generate", std::string("\x0a\x7fok", 4), "text: a value of 127 bytes"},
      {"/t2r.v1.Generation/Generate", std::string("\x2a\x01\xc3", 3), "stop: not valid UTF-8"},
      {"/t2r.v1.Generation/Score", std::string("\x12\x01\xff", 3), "text: not valid UTF-8"},
      {"/t2r.v1.Generation/Score", std::string("\x0a\x02\x0a\x7f", 4), "tokens.ids"},
      {"/t2r.v1.Generation/Tokenize", invalid_text, "text: not valid UTF-8 at byte 2"},
      {"/t2r.v1.Generation/Detokenize", std::string("\x0a\x05\x0a", 3), "tokens"},
      {"/t2r.v1.Generation/GetModel", std::string("\x07", 1), "byte 0"},
      {"/grpc.health.v1.Health/Check", invalid_text, "service: not valid UTF-8"},
      {"/grpc.health.v1.Health/Watch", invalid_text, "service: not valid UTF-8"},
  };
  for (const auto& test : cases) {
    const grpc::Status status = CallWith(server, test.method, test.bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << test.method;
    EXPECT_THAT(status.error_message(), HasSubstr(test.named)) << test.method;
  }
  EXPECT_EQ(server.Metric("t2r_requests_refused_total{code=\"INVALID_ARGUMENT\"}"), 5);
  EXPECT_TRUE(server.Generate(TokenRequest({1}, 1))->Finish().ok());
}

TEST(CompressionTest, IsRefusedBeforeItIsInflated) {
  TestServer server;
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    const grpc::Status status =
        CallWith(server, "/t2r.v1.Generation/Tokenize", std::string(1 << 20, '\x18'), algorithm);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
}

// Two workers, of which one is held inside a costly text.
class TextQueueTest : public ::testing::Test {
 protected:
  TextQueueTest() {
    options_.grpc.worker_threads = 1;
    options_.before_encode = [this] {
      if (inside_++ > 0) return;
      const std::lock_guard lock(gate_);
    };
    gate_.lock();
  }
  ~TextQueueTest() override { Open(); }
  void Open() {
    if (!std::exchange(open_, true)) gate_.unlock();
  }
  // Holds the worker, with a request.
  std::unique_ptr<Stream> Hold(TestServer& server) {
    auto stream = server.Generate(TextRequest("held", 1));
    EXPECT_TRUE(WaitUntil([&] { return inside_ == 1; }));
    return stream;
  }

  TestServerOptions options_;
  std::mutex gate_;
  bool open_ = false;
  std::atomic<int> inside_{0};
};

TEST_F(TextQueueTest, ACancelledTextGivesItsPlaceBackAtOnce) {
  options_.scheduler.max_queue_tokens = 1000;
  TestServer server(options_);
  const auto held = Hold(server);
  const auto first = server.Generate(TextRequest(std::string(100'000, 'x'), 1));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 2; }));
  EXPECT_LE(server.Metric("t2r_queue_tokens"), 500 + 6) << "it may not fill the queue alone";
  first->Cancel();
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The worker is still held.
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 1; }));
  Open();
  EXPECT_TRUE(held->Finish().ok());
  EXPECT_EQ(server.tokenizer->encoded(), 1);
}

TEST_F(TextQueueTest, ACancelledTokenizeIsNeverTokenised) {
  TestServer server(options_);
  const auto held = Hold(server);
  for (int i = 0; i < 5; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
    v1::TokenizeRequest request;
    request.set_text(std::string(1000, 'x'));
    v1::TokenizeResponse response;
    EXPECT_EQ(server.stub->Tokenize(&context, request, &response).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_buffer_bytes") < 1000; }));
  Open();
  EXPECT_TRUE(held->Finish().ok());
  EXPECT_TRUE(server.Generate(TextRequest("next", 1))->Finish().ok());
  EXPECT_EQ(server.tokenizer->encoded(), 2);
}

TEST_F(TextQueueTest, ShutdownDropsTheTextsThatWait) {
  TestServer server(options_);
  const auto held = Hold(server);
  const auto waiting = server.Generate(TextRequest("waiting", 1));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 2; }));
  std::thread drain([&] { server.Drain(absl::ZeroDuration()); });
  EXPECT_EQ(waiting->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  Open();
  drain.join();
  EXPECT_FALSE(held->Finish().ok());
}

TEST(LimitTest, NamesTheTextThatIsTooLong) {
  TestServerOptions options;
  options.max_text_bytes = 10;
  TestServer server(std::move(options));
  const auto expect = [](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("text: 11 bytes"));
    EXPECT_THAT(status.error_message(), HasSubstr("--max-text-bytes"));
  };
  const std::string text(11, 'x');
  expect(server.Generate(TextRequest(text, 1))->Finish());
  grpc::ClientContext score, tokenize;
  v1::ScoreRequest scored;
  scored.set_text(text);
  v1::ScoreResponse scores;
  expect(server.stub->Score(&score, scored, &scores));
  v1::TokenizeRequest tokenized;
  tokenized.set_text(text);
  v1::TokenizeResponse tokens;
  expect(server.stub->Tokenize(&tokenize, tokenized, &tokens));
}

TEST(LimitTest, NamesThePromptThatIsTooLong) {
  TestServerOptions options;
  options.scheduler.max_prompt_tokens = 4;
  TestServer server(std::move(options));
  EXPECT_TRUE(server.Generate(TokenRequest({1, 2, 3, 4}, 1))->Finish().ok());
  const grpc::Status status = server.Generate(TokenRequest({1, 2, 3, 4, 5}, 1))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("max_prompt_tokens"));
  EXPECT_EQ(server.Generate(TextRequest("12345", 1))->Finish().error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(LimitTest, BuffersAreBoundedTogether) {
  TestServerOptions options;
  options.executor.slots = 1;
  options.grpc.max_buffer_bytes = 100'000;
  TestServer server(std::move(options));
  server.executor.Hold();
  const auto first = server.Generate(TokenRequest(std::vector<uint32_t>(40'000, 7), 1));
  // Its ids, which are more than all of it; a second large message could run into gRPC's own bound
  // on what it has not handed over yet.
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_buffer_bytes") >= 160'000; }));
  const grpc::Status status = server.Generate(TokenRequest({7}, 1))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("--max-buffer-mib"));
  first->Cancel();
  EXPECT_FALSE(first->Finish().ok());
  server.executor.AllowAll();
  EXPECT_TRUE(WaitUntil([&] { return server.Metric("t2r_buffer_bytes") == 0; }));
}

TEST(LimitTest, AnAddressHasItsShare) {
  TestServerOptions options;
  options.grpc.max_requests_per_peer = 2;
  TestServer server(std::move(options));
  server.executor.Hold();
  const auto first = server.Generate(TokenRequest({1}, 2));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_running") == 1; }));
  const auto second = server.Generate(TokenRequest({1}, 2));
  // The engine thread is held in a step of the first.
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 1; }));
  const grpc::Status status = server.Generate(TokenRequest({1}, 2))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("--max-requests-per-peer"));
  server.executor.AllowAll();
  EXPECT_TRUE(first->Finish().ok());
  EXPECT_TRUE(second->Finish().ok());
  EXPECT_TRUE(WaitUntil([&] { return server.Generate(TokenRequest({1}, 2))->Finish().ok(); }));
}

TEST(UnreadTest, AStreamThatIsOverIsCutWhenNobodyReadsIt) {
  TestServerOptions options;
  options.grpc.reading.stall_timeout = absl::Milliseconds(200);
  options.grpc.outbox = {.tokens = 1000, .bytes = 1 << 20};
  options.next_token = [](std::span<const int32_t> /*history*/) { return 65; };
  TestServer server(std::move(options));
  // 100 kB: more than the client's window, less than the outbox.
  v1::GenerateRequest request = TokenRequest({1}, 400);
  request.set_logprobs(20);
  const auto unread = server.Generate(request);
  ASSERT_TRUE(WaitUntil(
      [&] { return server.Metric("t2r_request_success_total{finished_reason=\"length\"}") == 1; }));
  EXPECT_GT(server.Metric("t2r_buffer_bytes"), 10'000);
  // The RPC ends, which nothing but the cut can bring about.
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_buffer_bytes") == 0; }));
  EXPECT_EQ(unread->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(unread->ids.size(), 400U);
}

TEST(UnreadTest, AnAnswerThatNobodyReadsIsCut) {
  TestServerOptions options;
  options.grpc.reading = {.stall_timeout = absl::Milliseconds(200), .min_read_rate = 0};
  TestServer server(std::move(options));
  grpc::GenericStub stub(server.channel);
  grpc::ClientContext context;
  // A call that is never asked for its answer: the window stays as it is.
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, "/t2r.v1.Generation/Tokenize", &queue);
  void* tag = nullptr;
  bool ok = false;
  int start = 0;
  call->StartCall(&start);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  v1::TokenizeRequest request;
  request.set_text(std::string(900'000, 'x'));
  const grpc::Slice slice(request.SerializeAsString());
  int write = 0;
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), &write);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  ASSERT_TRUE(WaitUntil([&] { return server.tokenizer->encoded() == 1; }));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_buffer_bytes") > 100'000; }));
  EXPECT_TRUE(WaitUntil([&] { return server.Metric("t2r_buffer_bytes") == 0; }));
  context.TryCancel();
  grpc::Status status;
  int finish = 0;
  call->Finish(&status, &finish);
  while (queue.Next(&tag, &ok) && tag != &finish) {
  }
  EXPECT_FALSE(status.ok());
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

TEST(NotFiniteTest, EndsTheRequestWithInternal) {
  TestServer server;
  server.executor.set_not_finite(
      [](std::span<const int32_t> history) { return history.size() == 3; });
  const auto stream = server.Generate(TokenRequest({1}, 10));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("position 2"));
  EXPECT_EQ(stream->ids.size(), 2U);
  EXPECT_EQ(server.Metric("t2r_not_finite_logits_total"), 1);
}

TEST(TellMemoryTest, TheMachinesMemoryIsToldOnlyWhenAsked) {
  for (const bool tell : {false, true}) {
    TestServerOptions options;
    options.grpc.tell_memory = tell;
    TestServer server(std::move(options));
    server.model->info.mutable_memory()->set_total_bytes(1000);
    server.model->info.mutable_memory()->set_free_bytes(10);
    server.model->info.mutable_memory()->set_weights_bytes(5);
    grpc::ClientContext context;
    v1::GetModelResponse info;
    ASSERT_TRUE(server.stub->GetModel(&context, {}, &info).ok());
    EXPECT_EQ(info.memory().total_bytes(), tell ? 1000U : 0U);
    EXPECT_EQ(info.memory().free_bytes(), tell ? 10U : 0U);
    EXPECT_EQ(info.memory().weights_bytes(), 5U);
  }
}

TEST(ReflectionTest, DescribesTheServices) {
  using grpc::reflection::v1alpha::ServerReflection;
  using grpc::reflection::v1alpha::ServerReflectionRequest;
  using grpc::reflection::v1alpha::ServerReflectionResponse;
  for (const bool on : {true, false}) {
    TestServerOptions options;
    options.grpc.reflection = on;
    TestServer server(std::move(options));
    const auto stub = ServerReflection::NewStub(server.channel);
    grpc::ClientContext context;
    const auto stream = stub->ServerReflectionInfo(&context);
    ServerReflectionRequest request;
    ServerReflectionResponse response;
    request.set_list_services("*");
    stream->Write(request);
    if (!on) {
      EXPECT_FALSE(stream->Read(&response));
      EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
      continue;
    }
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.list_services_response().service_size(), 4);
    request.set_file_containing_symbol("t2r.v1.Generation");
    stream->Write(request);
    ASSERT_TRUE(stream->Read(&response));
    // generation.proto after what it imports: duration.proto, and sessions.proto after
    // timestamp.proto.
    EXPECT_EQ(response.file_descriptor_response().file_descriptor_proto_size(), 4);
    request.set_file_by_filename("no/such.proto");
    stream->Write(request);
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
    stream->WritesDone();
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_TRUE(stream->Finish().ok());
  }
}

}  // namespace
}  // namespace t2r::server

// Overload, cancellation, deadlines, slow readers: how requests are refused and how they end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;

std::string Finished(const char* reason) {
  return std::string("t2r_request_success_total{finished_reason=\"") + reason + "\"}";
}

// One slot, steps held from the start.
TestServerOptions OneSlot() {
  TestServerOptions options;
  options.executor.slots = 1;
  options.executor.max_step_tokens = 16;
  options.scheduler.max_prompt_chunk = 8;
  return options;
}

TEST(OverloadTest, RefusesBeyondTheQueueBeforeTokenising) {
  TestServerOptions options = OneSlot();
  options.scheduler.max_queue_requests = 2;
  TestServer server(std::move(options));
  server.executor.Hold();
  const auto running = server.Generate(TextRequest("a", 3));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_running") == 1; }));
  const auto first = server.Generate(TextRequest("b", 3));
  const auto second = server.Generate(TextRequest("c", 3));
  ASSERT_TRUE(WaitUntil([&] {
    return server.Metric("t2r_num_requests_waiting") == 2 && server.tokenizer->encoded() == 3;
  }));
  EXPECT_GT(server.Metric("t2r_queue_tokens"), 0);

  const int encoded = server.tokenizer->encoded();
  const grpc::Status status = server.Generate(TextRequest("d", 3))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("2"));
  EXPECT_EQ(server.tokenizer->encoded(), encoded);
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(status.error_details()));
  ASSERT_EQ(rich.details_size(), 1);
  EXPECT_EQ(rich.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(rich.details(0).UnpackTo(&retry));
  EXPECT_GT(retry.retry_delay().seconds() + retry.retry_delay().nanos(), 0);

  grpc::ClientContext context;
  v1::ScoreRequest score;
  score.set_text("d");
  v1::ScoreResponse response;
  EXPECT_EQ(server.stub->Score(&context, score, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);

  server.executor.AllowAll();
  for (const auto& stream : {running.get(), first.get(), second.get()}) {
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_EQ(stream->ids.size(), 3u);
  }
}

TEST(OverloadTest, CountsTheTokensOfTheQueue) {
  TestServerOptions options = OneSlot();
  options.scheduler.max_queue_tokens = 10;
  TestServer server(std::move(options));
  server.executor.Hold();
  const auto running = server.Generate(TokenRequest({1, 2}, 3));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_running") == 1; }));
  const auto waiting = server.Generate(TokenRequest({1, 2, 3, 4}, 3));
  const auto long_one = server.Generate(TokenRequest({1, 2, 3, 4, 5, 6, 7, 8}, 3));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 2; }));
  EXPECT_EQ(server.Metric("t2r_queue_tokens"), 9) << "of the long one only half the limit counts";
  EXPECT_EQ(server.Generate(TokenRequest({1, 2, 3}, 3))->Finish().error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  server.executor.AllowAll();
  EXPECT_TRUE(running->Finish().ok());
  EXPECT_TRUE(waiting->Finish().ok());
  EXPECT_TRUE(long_one->Finish().ok());
}

TEST(CancelTest, WhileQueued) {
  TestServer server(OneSlot());
  server.executor.Hold();
  const auto running = server.Generate(TokenRequest({1}, 3));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_running") == 1; }));
  // Long: it must still be there when the news arrives, even if it has its slot by then.
  const auto queued = server.Generate(TokenRequest({2}, 1'000'000));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 1; }));
  queued->Cancel();
  EXPECT_EQ(queued->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server.executor.AllowAll();
  EXPECT_TRUE(running->Finish().ok());
  EXPECT_TRUE(WaitUntil([&] { return server.Metric(Finished("cancelled")) == 1; }));
  EXPECT_EQ(server.Metric("t2r_num_requests_waiting"), 0);
}

TEST(CancelTest, InsideALongPrompt) {
  TestServer server(OneSlot());
  server.executor.Hold();
  const auto stream = server.Generate(TokenRequest(std::vector<uint32_t>(10'000, 7), 3));
  server.executor.WaitUntilHeldAfter(0);
  server.executor.Allow(3);
  server.executor.WaitUntilHeldAfter(3);
  stream->Cancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // Steps go on, slower than the news travels: the prompt alone would take 1,250.
  ASSERT_TRUE(WaitUntil([&] {
    server.executor.Allow(1);
    return server.Metric(Finished("cancelled")) == 1;
  }));
  EXPECT_LT(server.executor.steps(), 1000);
  EXPECT_EQ(server.executor.open_slots(), 0);
}

TEST(CancelTest, WhileStreaming) {
  TestServer server(OneSlot());
  const auto stream = server.Generate(TokenRequest({1}, 1'000'000));
  ASSERT_TRUE(stream->WaitForDelta());
  stream->Cancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(WaitUntil([&] { return server.Metric(Finished("cancelled")) == 1; }));
  EXPECT_EQ(server.executor.open_slots(), 0);
  EXPECT_EQ(server.Metric("t2r_slots_used"), 0);
}

TEST(CancelTest, WhileTokenising) {
  std::mutex gate;
  std::atomic<int> inside{0};
  TestServerOptions options = OneSlot();
  options.before_encode = [&] {
    ++inside;
    const std::lock_guard lock(gate);
  };
  TestServer server(std::move(options));
  gate.lock();
  const auto stream = server.Generate(TextRequest("a", 3));
  ASSERT_TRUE(WaitUntil([&] { return inside == 1; }));
  stream->Cancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  gate.unlock();
  // Whether the server heard of it before or after submitting, nothing stays behind.
  const auto next = server.Generate(TextRequest("b", 3));
  EXPECT_TRUE(next->Finish().ok());
  EXPECT_TRUE(WaitUntil([&] {
    return server.Finishes() == server.Metric("t2r_requests_started_total") &&
           server.executor.open_slots() == 0;
  }));
}

TEST(DeadlineTest, EndsQueuedAndRunning) {
  TestServer server(OneSlot());
  const auto running =
      server.Generate(TokenRequest({1}, 1'000'000'000 % (1 << 20)), absl::Milliseconds(300));
  ASSERT_TRUE(running->WaitForDelta());
  server.executor.Hold();
  const auto queued = server.Generate(TokenRequest({2}, 3), absl::Milliseconds(200));
  EXPECT_EQ(queued->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server.executor.AllowAll();
  EXPECT_EQ(running->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(WaitUntil([&] { return server.Finishes() == 2; }));
  EXPECT_EQ(server.Metric(Finished("deadline")), 2) << "counted as deadlines, not as cancelled";
  EXPECT_EQ(server.executor.open_slots(), 0);
}

TEST(SlowReaderTest, DisturbsNobodyAndIsEndedWhenItStalls) {
  TestServerOptions options;
  options.executor.slots = 2;
  options.scheduler.stall_timeout = absl::Milliseconds(300);
  options.next_token = [](std::span<const int32_t> history) {
    return static_cast<int32_t>(history.size() % 251);
  };
  TestServer server(std::move(options));
  v1::GenerateRequest request = TokenRequest({1}, 1 << 20);
  request.set_logprobs(20);  // heavy tokens fill the windows sooner
  const auto slow = server.Generate(request);
  ASSERT_TRUE(slow->WaitForDelta());
  // From here it does not read; the others get all of theirs.
  for (int i = 0; i < 3; ++i) {
    const auto other = server.Generate(TokenRequest({2}, 500));
    ASSERT_TRUE(other->Finish().ok());
    EXPECT_EQ(other->ids.size(), 500u);
  }
  ASSERT_TRUE(WaitUntil([&] { return server.Metric(Finished("stalled")) == 1; }));
  EXPECT_EQ(server.executor.open_slots(), 0);
  // What was sent and what waited arrives, in order, and then why it ended.
  const grpc::Status status = slow->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("took no token"));
  for (size_t i = 0; i < slow->ids.size(); ++i) {
    ASSERT_EQ(slow->ids[i], static_cast<int32_t>((i + 1) % 251));
  }
  EXPECT_FALSE(slow->finished);
}

TEST(SlowReaderTest, IsCutWhenItNeverReadsAgain) {
  TestServerOptions options;
  options.scheduler.stall_timeout = absl::Milliseconds(100);
  options.grpc.reading.stall_grace = absl::Milliseconds(100);
  options.next_token = [](std::span<const int32_t> /*history*/) { return 65; };
  TestServer server(std::move(options));
  v1::GenerateRequest request = TokenRequest({1}, 1 << 20);
  request.set_logprobs(20);
  const auto slow = server.Generate(request);
  ASSERT_TRUE(WaitUntil([&] { return server.Metric(Finished("stalled")) == 1; }));
  // Shutdown with a long grace would wait for an RPC that is still open.
  server.server->Shutdown(absl::Seconds(30));
  EXPECT_FALSE(slow->Finish().ok());
}

TEST(AccountTest, StartedIsTheSumOfFinishes) {
  TestServerOptions options;
  options.scheduler.max_queue_requests = 16;
  TestServer server(std::move(options));
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&server, c] {
      std::mt19937 random(c);
      for (int i = 0; i < 25; ++i) {
        const bool text = random() % 2 == 0;
        v1::GenerateRequest request =
            text ? TextRequest("hello", 1 + random() % 40)
                 : TokenRequest(std::vector<uint32_t>(1 + random() % 90, 9), 1 + random() % 40);
        const absl::Duration limit =
            random() % 5 == 0 ? absl::Milliseconds(1 + random() % 5) : absl::Seconds(60);
        const auto stream = server.Generate(request, limit);
        if (random() % 3 == 0) {
          if (random() % 2 == 0) stream->WaitForDelta();
          stream->Cancel();
        }
        const grpc::Status status = stream->Finish();
        if (status.ok()) {
          EXPECT_EQ(stream->ids.size(), request.max_tokens());
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  ASSERT_TRUE(WaitUntil([&] {
    return server.Metric("t2r_num_requests_running") == 0 &&
           server.Metric("t2r_num_requests_waiting") == 0;
  }));
  EXPECT_TRUE(
      WaitUntil([&] { return server.Metric("t2r_requests_started_total") == server.Finishes(); }));
  EXPECT_GT(server.Finishes(), 20);
  EXPECT_EQ(server.executor.open_slots(), 0);
  EXPECT_EQ(server.Metric("t2r_queue_tokens"), 0);
}

}  // namespace
}  // namespace t2r::server

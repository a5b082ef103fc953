#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/client/testing/fake_server.h"

namespace t2r::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(server_.address());
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  static GenerateRequest TextRequest(const std::string& text, uint32_t max_tokens = 0) {
    GenerateRequest request;
    request.prompt = text;
    request.max_tokens = max_tokens;
    return request;
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
};

// The result of a call that runs beside the test.
class Outcome {
 public:
  void SetEvent() {
    Set([this] { ++events_; });
  }
  void SetDone(const absl::Status& status) {
    Set([&] {
      status_ = status;
      done_ = true;
    });
  }
  absl::Status WaitDone() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return status_;
  }
  void WaitEvents(int n) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return events_ >= n; });
  }

 private:
  template <typename F>
  void Set(const F& f) {
    const std::lock_guard<std::mutex> lock(mutex_);
    f();
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int events_ = 0;
  bool done_ = false;
  absl::Status status_;
};

TEST_F(ClientTest, StreamsEventsInOrder) {
  server_.tokens_per_delta = 2;
  GenerateRequest request = TextRequest("abc", 3);
  request.logprobs = 1;
  request.sampling.seed = 1'234'567'890'123;
  std::vector<Event> events;
  const absl::Status status = client_->Generate(request, {}, [&](const Event& event) {
    events.push_back(event);
    return true;
  });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(events.size(), 4);
  const Started& started = std::get<Started>(events[0]);
  EXPECT_EQ(started.seed, 1'234'567'890'123);
  EXPECT_EQ(started.prompt_tokens, 4);
  EXPECT_EQ(started.max_tokens, 3);
  const Delta& first = std::get<Delta>(events[1]);
  EXPECT_EQ(first.text, "ab");
  EXPECT_THAT(first.token_ids, ElementsAre(100, 101));
  ASSERT_EQ(first.logprobs.size(), 2);
  EXPECT_EQ(first.logprobs[1].chosen.token_id, 101);
  EXPECT_EQ(first.logprobs[1].chosen.logprob, -0.25f);
  ASSERT_EQ(first.logprobs[1].top.size(), 1);
  EXPECT_EQ(first.logprobs[1].top[0].token_id, 9);
  EXPECT_EQ(std::get<Delta>(events[2]).text, "c");
  const Finished& finished = std::get<Finished>(events[3]);
  EXPECT_EQ(finished.reason, FinishReason::kLength);
  EXPECT_EQ(finished.generated_tokens, 3);
  EXPECT_EQ(finished.decode_time, absl::Milliseconds(5));
}

TEST_F(ClientTest, SendsEveryField) {
  GenerateRequest request;
  request.prompt = TokenIds{1, 2};
  request.max_tokens = 1;
  request.sampling = {.temperature = 0.0f,
                      .top_k = 3,
                      .top_p = 0.5f,
                      .min_p = 0.25f,
                      .repetition_penalty = 1.5f,
                      .frequency_penalty = -1,
                      .presence_penalty = 2,
                      .logit_bias = {{5, -2.5f}},
                      .seed = 0};
  request.stop = {"x", "y"};
  request.include_stop = true;
  request.stop_token_ids = {8};
  request.ignore_eos = true;
  request.logprobs = 4;
  ASSERT_TRUE(client_->Generate(request, {}, nullptr).ok());
  EXPECT_EQ(server_.last_request(),
            "tokens { ids: 1 ids: 2 } max_tokens: 1 sampling { temperature: 0 top_k: 3 top_p: 0.5 "
            "min_p: 0.25 repetition_penalty: 1.5 frequency_penalty: -1 presence_penalty: 2 "
            "logit_bias { key: 5 value: -2.5 } seed: 0 } stop: \"x\" stop: \"y\" include_stop: "
            "true stop_token_ids: 8 ignore_eos: true logprobs: 4");
}

// 0 turns off what the model asks for, which is not the same as saying nothing.
TEST_F(ClientTest, SendsWhatIsSetAlone) {
  GenerateRequest request;
  request.prompt = TokenIds{1};
  request.max_tokens = 1;
  request.sampling.top_k = 0;
  request.sampling.min_p = 0.0F;
  ASSERT_TRUE(client_->Generate(request, {}, nullptr).ok());
  EXPECT_EQ(server_.last_request(),
            "tokens { ids: 1 } max_tokens: 1 sampling { top_k: 0 min_p: 0 }");
}

TEST_F(ClientTest, SendsNoTextThatIsNotUtf8) {
  const std::string invalid = "ok\xff";
  const auto expect = [](const absl::Status& status, const std::string& field) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(field + ": the text is not valid UTF-8 at byte 2"));
  };
  expect(client_->Generate(TextRequest(invalid), {}, nullptr), "text");
  GenerateRequest stop = TextRequest("fine");
  stop.stop = {"fine", invalid};
  expect(client_->Generate(stop, {}, nullptr), "stop");
  expect(client_->Score(invalid, {}).status(), "text");
  expect(client_->Tokenize(invalid, {}).status(), "text");
  Outcome outcome;
  client_->StartGenerate(
      TextRequest(invalid), {}, [](const Event&) {},
      [&](const absl::Status& status) { outcome.SetDone(status); });
  expect(outcome.WaitDone(), "text");
}

TEST_F(ClientTest, GivesTheServersStatus) {
  const absl::Status status = client_->Generate(TextRequest("invalid"), {}, nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "top_p is 7; it must be in (0, 1]");
  EXPECT_EQ(RetryDelay(status), std::nullopt);
}

TEST_F(ClientTest, AStreamWithoutFinishedIsAnError) {
  EXPECT_TRUE(absl::IsInternal(client_->Generate(TextRequest("unfinished"), {}, nullptr)));
}

TEST_F(ClientTest, DrainGivesFinishedAndThenTheStatus) {
  FinishReason reason = FinishReason::kUnspecified;
  const absl::Status status =
      client_->Generate(TextRequest("drained"), {.max_retries = 3}, [&](const Event& event) {
        if (const auto* f = std::get_if<Finished>(&event)) reason = f->reason;
        return true;
      });
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(reason, FinishReason::kDrained);
  EXPECT_EQ(server_.attempts(), 1);
}

TEST_F(ClientTest, RefusalCarriesTheDelay) {
  server_.refusals = 1;
  server_.retry_delay_ms = 1'500;
  const absl::Status status = client_->Generate(TextRequest("a"), {}, nullptr);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(RetryDelay(status), absl::Milliseconds(1'500));
}

TEST_F(ClientTest, RetriesAsOftenAsAllowed) {
  server_.refusals = 2;
  server_.retry_delay_ms = 5;
  EXPECT_TRUE(client_->Generate(TextRequest("a"), {.max_retries = 2}, nullptr).ok());
  EXPECT_EQ(server_.attempts(), 3);
  server_.refusals = 3;
  const absl::Status status = client_->Generate(TextRequest("a"), {.max_retries = 2}, nullptr);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(server_.attempts(), 6);
}

TEST_F(ClientTest, UnaryCallsRetryToo) {
  server_.refusals = 1;
  server_.retry_delay_ms = 5;
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Score("ab").status()));
  server_.refusals = 1;
  EXPECT_TRUE(client_->Score("ab", {.max_retries = 1}).ok());
}

TEST_F(ClientTest, DoesNotWaitBeyondTheDeadline) {
  server_.refusals = 1;
  server_.retry_delay_ms = 3'600'000;
  const CallOptions options{.timeout = absl::Minutes(1), .max_retries = 5};
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Generate(TextRequest("a"), options, nullptr)));
  EXPECT_EQ(server_.attempts(), 1);
}

TEST_F(ClientTest, DeadlineEndsAStream) {
  const CallOptions options{.timeout = absl::Milliseconds(50)};
  EXPECT_TRUE(absl::IsDeadlineExceeded(client_->Generate(TextRequest("silent"), options, nullptr)));
  EXPECT_TRUE(server_.WaitForCancelled(1));
}

TEST_F(ClientTest, CallbackCancels) {
  const absl::Status status =
      client_->Generate(TextRequest("endless"), {},
                        [&](const Event& event) { return !std::holds_alternative<Delta>(event); });
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_TRUE(server_.WaitForCancelled(1));
}

TEST_F(ClientTest, AnotherThreadCancels) {
  Outcome outcome;
  const GenerateCall call = client_->StartGenerate(
      TextRequest("endless"), {}, [&](const Event&) { outcome.SetEvent(); },
      [&](const absl::Status& status) { outcome.SetDone(status); });
  outcome.WaitEvents(2);
  call.Cancel();
  EXPECT_TRUE(absl::IsCancelled(outcome.WaitDone()));
  EXPECT_TRUE(server_.WaitForCancelled(1));
  call.Cancel();  // too late: no effect
}

TEST_F(ClientTest, CancelEndsTheWaitBeforeARetry) {
  server_.refusals = 1;
  server_.retry_delay_ms = 3'600'000;
  Outcome outcome;
  const GenerateCall call =
      client_->StartGenerate(TextRequest("a"), {.max_retries = 1}, nullptr,
                             [&](const absl::Status& status) { outcome.SetDone(status); });
  while (server_.attempts() == 0) std::this_thread::yield();
  call.Cancel();  // in the refused attempt or in the wait after it
  const absl::Status status = outcome.WaitDone();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(server_.attempts(), 1);
}

TEST_F(ClientTest, DestructionCancelsAndWaits) {
  std::atomic<int> cancelled = 0;
  for (int i = 0; i < 3; ++i) {
    client_->StartGenerate(TextRequest("silent"), {}, nullptr, [&](const absl::Status& status) {
      if (absl::IsCancelled(status)) ++cancelled;
    });
  }
  client_.reset();
  EXPECT_EQ(cancelled, 3);
}

TEST_F(ClientTest, ADefaultCallCancelsNothing) { GenerateCall().Cancel(); }

TEST_F(ClientTest, RunsManyStreamsAtOnce) {
  constexpr int kStreams = 24;
  std::vector<Outcome> outcomes(kStreams);
  std::vector<GenerateCall> calls;
  for (Outcome& outcome : outcomes) {
    calls.push_back(client_->StartGenerate(
        TextRequest("endless"), {}, [&outcome](const Event&) { outcome.SetEvent(); },
        [&outcome](const absl::Status& status) { outcome.SetDone(status); }));
  }
  for (Outcome& outcome : outcomes) outcome.WaitEvents(2);
  EXPECT_EQ(server_.max_concurrent(), kStreams);
  for (const GenerateCall& call : calls) call.Cancel();
  for (Outcome& outcome : outcomes) EXPECT_TRUE(absl::IsCancelled(outcome.WaitDone()));
}

TEST_F(ClientTest, Scores) {
  const absl::StatusOr<ScoreResult> text = client_->Score("ab");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(text->tokens, ElementsAre(1, 'a', 'b'));
  EXPECT_THAT(text->logprobs, ElementsAre(-0.5f, -0.5f));
  const absl::StatusOr<ScoreResult> ids = client_->Score(TokenIds{5, 6});
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(ids->tokens, ElementsAre(5, 6));
}

TEST_F(ClientTest, TokenizesAndBack) {
  const absl::StatusOr<TokenIds> ids = client_->Tokenize("hi");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre(1, 'h', 'i'));
  EXPECT_EQ(*client_->Detokenize(*ids), "hi");
}

TEST_F(ClientTest, DescribesTheModel) {
  const absl::StatusOr<ModelInfo> info = client_->GetModel();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name, "fake");
  EXPECT_EQ(info->layer_types.size(), 3);
  EXPECT_EQ(info->state_bytes_per_session, 123'456);
  EXPECT_THAT(info->eos_token_ids, ElementsAre(2));
  EXPECT_EQ(info->bos_token_id, 1);
  EXPECT_EQ(info->limits.max_sessions, 64);
  EXPECT_EQ(info->limits.max_positions, 2'000);
  EXPECT_EQ(info->limits.max_response_bytes, 4U << 20);
  EXPECT_EQ(info->defaults.temperature, 0.5F);
  EXPECT_EQ(info->defaults.top_k, 40U);
  EXPECT_EQ(info->defaults.top_p, std::nullopt);
  EXPECT_EQ(info->defaults.max_tokens, 77U);
}

TEST_F(ClientTest, WaitsUntilServing) {
  server_.health_failures = 2;
  EXPECT_TRUE(client_->WaitUntilServing({.timeout = absl::Minutes(1)}).ok());
  EXPECT_LT(server_.health_failures, 0);
  server_.health_failures = 1'000'000;
  const absl::Status status = client_->WaitUntilServing({.timeout = absl::Milliseconds(1)});
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_.address()));
}

TEST(ClientConnectTest, NamesAServerThatDoesNotAnswer) {
  std::string address;
  {
    FakeServer gone;
    address = gone.address();
  }
  const absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(address);
  ASSERT_TRUE(absl::IsUnavailable(client.status())) << client.status();
  EXPECT_THAT(std::string(client.status().message()), HasSubstr(address));
  // Without waiting for a connection, the first call says so.
  const auto lazy = Client::Connect(address, {.connect_timeout = absl::ZeroDuration()});
  ASSERT_TRUE(lazy.ok());
  EXPECT_TRUE(absl::IsUnavailable((*lazy)->GetModel().status()));
}

}  // namespace
}  // namespace t2r::client

// Generate and Score: what clients get, and how requests end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> Expected(const std::vector<int32_t>& prompt, int64_t n) {
  return ExpectedTokens(prompt, n, ByteTokenizer::kVocab);
}

// Tokens that spell `text` over and over.
FakeExecutor::NextToken Spell(std::string text, size_t prompt) {
  return [text = std::move(text), prompt](std::span<const int32_t> history) {
    return int32_t{static_cast<unsigned char>(text[(history.size() - prompt) % text.size()])};
  };
}

bool IsUtf8(const std::string& text) {
  v1::Delta delta;  // proto3 strings are checked on parsing, as every client does
  delta.set_text(text);
  return v1::Delta().ParseFromString(delta.SerializeAsString());
}

TEST(GenerateTest, StreamsTheTokensOfIds) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest({5, 6, 7}, 100);
  request.mutable_sampling()->set_seed(42);
  const auto stream = server.Generate(request);
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(stream->ids, Expected({5, 6, 7}, 100));
  EXPECT_EQ(stream->started->seed(), 42u);
  EXPECT_EQ(stream->started->prompt_tokens(), 3u);
  EXPECT_EQ(stream->started->max_tokens(), 100u);
  EXPECT_EQ(stream->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream->finished->usage().prompt_tokens(), 3u);
  EXPECT_EQ(stream->finished->usage().generated_tokens(), 100u);
  ASSERT_EQ(stream->logprobs.size(), 100u);
  EXPECT_EQ(static_cast<int32_t>(stream->logprobs[7].chosen().token_id()), stream->ids[7]);
}

// Whether a turn of the engine brings a few tokens, which it sends itself, or more; and whether its
// sessions wait for room in their outboxes with every token, with every other or never.
TEST(GenerateTest, EveryTokenComesHoweverSmallTheOutbox) {
  for (const int64_t tokens : {1, 2, 3, 256}) {
    for (const int sessions : {1, 4, 9}) {
      TestServerOptions options;
      options.grpc.outbox.tokens = tokens;
      options.executor.slots = 9;
      TestServer server(std::move(options));
      std::vector<std::unique_ptr<Stream>> streams;
      for (int i = 0; i < sessions; ++i) {
        streams.push_back(server.Generate(TokenRequest({static_cast<uint32_t>(i)}, 300)));
      }
      for (int i = 0; i < sessions; ++i) {
        ASSERT_TRUE(streams[static_cast<size_t>(i)]->Finish().ok()) << tokens << ", " << i;
        EXPECT_EQ(streams[static_cast<size_t>(i)]->ids, Expected({i}, 300)) << tokens;
      }
    }
  }
}

// It is not read before another has come to its end; its own 400 tokens, of 20 alternatives each,
// are more than the client's window and its outbox hold.
TEST(GenerateTest, AStreamThatIsReadLateGoesOnToItsEnd) {
  TestServerOptions options;
  options.grpc.outbox.tokens = 8;
  TestServer server(std::move(options));
  v1::GenerateRequest request = TokenRequest({1}, 400);
  request.set_logprobs(20);
  const auto late = server.Generate(request);
  const auto other = server.Generate(TokenRequest({2}, 2000));
  ASSERT_TRUE(other->Finish().ok());
  EXPECT_EQ(server.Metric("t2r_num_requests_running"), 1);
  ASSERT_TRUE(late->Finish().ok());
  EXPECT_EQ(late->ids, Expected({1}, 400));
}

TEST(GenerateTest, GivesTextABos) {
  TestServer server;
  const auto stream = server.Generate(TextRequest("ab", 8));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->ids, Expected({ByteTokenizer::kBos, 'a', 'b'}, 8));
  EXPECT_EQ(stream->started->prompt_tokens(), 3u);
}

TEST(GenerateTest, SendsWholeCodePointsOnly) {
  const std::string text = "aé€😀";
  TestServerOptions options;
  options.next_token = Spell(text, 1);
  TestServer server(std::move(options));
  // Two rounds, then three of the emoji's four bytes.
  const auto stream = server.Generate(TokenRequest({3}, 2 * 10 + 9));
  ASSERT_TRUE(stream->Finish().ok());
  for (const std::string& part : stream->texts) EXPECT_TRUE(IsUtf8(part)) << part;
  EXPECT_EQ(stream->text(), absl::StrCat(text, text, "aé€", "\xEF\xBF\xBD"));
}

TEST(GenerateTest, EndsBeforeAStopStringThatSpansTokens) {
  TestServerOptions options;
  options.next_token = Spell("one two three", 1);
  TestServer server(std::move(options));
  v1::GenerateRequest request = TokenRequest({3}, 50);
  request.add_stop("never");
  request.add_stop("two");
  const auto stream = server.Generate(request);
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->text(), "one ");
  EXPECT_EQ(stream->finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream->finished->stop(), "two");
}

TEST(GenerateTest, EndsAtEosUnlessIgnored) {
  TestServerOptions options;
  options.next_token = Spell("abc", 1);
  options.scheduler.eos_token_ids = {'c'};
  TestServer server(std::move(options));
  const auto stream = server.Generate(TokenRequest({3}, 9));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->finished->reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(stream->ids.size(), 3u);
  v1::GenerateRequest request = TokenRequest({3}, 9);
  request.set_ignore_eos(true);
  const auto on = server.Generate(request);
  ASSERT_TRUE(on->Finish().ok());
  EXPECT_EQ(on->ids.size(), 9u);
}

TEST(GenerateTest, FillsInMaxTokens) {
  TestServerOptions options;
  options.max_tokens = 20;
  options.executor.position_limit = 11;
  TestServer server(std::move(options));
  const auto stream = server.Generate(TokenRequest({5, 6, 7, 8, 9, 10}, 0));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->ids.size(), 6u) << "6 + 6 ids need 11 positions";
  EXPECT_EQ(stream->started->max_tokens(), 6u);
}

TEST(GenerateTest, RandomSeedsDiffer) {
  TestServer server;
  const auto a = server.Generate(TokenRequest({5}, 1)), b = server.Generate(TokenRequest({5}, 1));
  ASSERT_TRUE(a->Finish().ok() && b->Finish().ok());
  EXPECT_NE(a->started->seed(), b->started->seed());
}

TEST(GenerateTest, NamesWhatIsWrong) {
  TestServerOptions options;
  options.executor.position_limit = 100;
  options.max_tokens = 90;
  TestServer server(std::move(options));
  struct Case {
    const char* message;
    std::function<void(v1::GenerateRequest&)> change;
  };
  const std::vector<Case> cases = {
      {"prompt: not set", [](auto& r) { r.clear_prompt(); }},
      {"tokens: no ids", [](auto& r) { r.mutable_tokens()->Clear(); }},
      {"tokens: id 257", [](auto& r) { r.mutable_tokens()->add_ids(257); }},
      {"tokens: id 4294967295", [](auto& r) { r.mutable_tokens()->add_ids(4294967295u); }},
      {"max_tokens: 91", [](auto& r) { r.set_max_tokens(91); }},
      {"101 positions",
       [](auto& r) {
         r.mutable_tokens()->mutable_ids()->Resize(100, 7);
         r.set_max_tokens(2);
       }},
      {"temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-1); }},
      {"temperature", [](auto& r) { r.mutable_sampling()->set_temperature(NAN); }},
      {"top_p", [](auto& r) { r.mutable_sampling()->set_top_p(1.5); }},
      {"min_p", [](auto& r) { r.mutable_sampling()->set_min_p(-0.5); }},
      {"repetition_penalty", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(-1); }},
      {"frequency_penalty", [](auto& r) { r.mutable_sampling()->set_frequency_penalty(3); }},
      {"presence_penalty", [](auto& r) { r.mutable_sampling()->set_presence_penalty(-3); }},
      {"logit_bias: id 300",
       [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[300] = 1; }},
      {"logit_bias", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[3] = 101; }},
      {"stop_token_ids: id 999", [](auto& r) { r.add_stop_token_ids(999); }},
      {"stop",
       [](auto& r) {
         for (int i = 0; i < 17; ++i) r.add_stop(std::string(1, 'x'));
       }},
      {"logprobs", [](auto& r) { r.set_logprobs(21); }},
  };
  for (const Case& c : cases) {
    for (const bool text : {false, true}) {
      v1::GenerateRequest request = text ? TextRequest("hello", 5) : TokenRequest({5, 6}, 5);
      c.change(request);
      const grpc::Status status = server.Generate(request)->Finish();
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << c.message;
      EXPECT_THAT(status.error_message(), HasSubstr(c.message));
    }
  }
  EXPECT_EQ(server.Metric("t2r_requests_started_total"), 0);
  EXPECT_EQ(server.Metric("t2r_requests_refused_total{code=\"INVALID_ARGUMENT\"}"),
            2.0 * static_cast<double>(cases.size()));
}

TEST(GenerateTest, ATokenBeyondTheModelsRowsIsNamed) {
  TestServerOptions options;
  options.executor.vocab_size = ByteTokenizer::kBos;
  TestServer server(std::move(options));
  const grpc::Status status = server.Generate(TextRequest("ab", 8))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("holds the token \"<s>\" of id 256"));
  EXPECT_THAT(status.error_message(), HasSubstr("has 256 tokens"));
  EXPECT_THAT(
      TokenizerWarnings(*server.model->tokenizer, server.model->limits),
      ::testing::ElementsAre(HasSubstr(
          "has 257 tokens, the model 256 of them: texts with others (the first is \"<s>\"")));
  EXPECT_THAT(TokenizerWarnings(ByteTokenizer(), {.vocab_size = 300}), ::testing::IsEmpty());
  EXPECT_THAT(TokenizerWarnings(ByteTokenizer(), {.vocab_size = 257, .source_vocab_size = 200}),
              ::testing::ElementsAre(HasSubstr("source tokenizer has 257 tokens, the model 200")));
}

TEST(GenerateTest, WithoutATokenizerServesIdsOnly) {
  TestServerOptions options;
  options.tokenizer = false;
  TestServer server(std::move(options));
  const auto stream = server.Generate(TokenRequest({5}, 4));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->ids, Expected({5}, 4));
  EXPECT_EQ(stream->text(), "");
  const grpc::Status status = server.Generate(TextRequest("a", 4))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("tokenizer"));
}

v1::ScoreRequest ScoreOf(const std::vector<uint32_t>& ids) {
  v1::ScoreRequest request;
  request.mutable_tokens()->mutable_ids()->Assign(ids.begin(), ids.end());
  return request;
}

TEST(ScoreTest, GivesALogprobForEachIdButTheFirst) {
  TestServer server;
  grpc::ClientContext context;
  v1::ScoreResponse response;
  ASSERT_TRUE(server.stub->Score(&context, ScoreOf({5, 9, 2, 77}), &response).ok());
  ASSERT_EQ(response.logprobs_size(), 3);
  const std::vector<int32_t> ids = {5, 9, 2, 77};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(response.logprobs(static_cast<int>(i)),
              MixScore(std::span(ids).first(i + 1), ids[i + 1]));
  }
  EXPECT_EQ(response.tokens().ids_size(), 4);
}

TEST(ScoreTest, TokenisesTextAndChecksIds) {
  TestServer server;
  grpc::ClientContext text_context, one_context, none_context, bad_context;
  v1::ScoreRequest text;
  text.set_text("ab");
  v1::ScoreResponse response;
  ASSERT_TRUE(server.stub->Score(&text_context, text, &response).ok());
  EXPECT_EQ(response.logprobs_size(), 2) << "BOS a b";
  ASSERT_TRUE(server.stub->Score(&one_context, ScoreOf({7}), &response).ok());
  EXPECT_EQ(response.logprobs_size(), 0);
  EXPECT_EQ(server.stub->Score(&none_context, ScoreOf({}), &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  const grpc::Status bad = server.stub->Score(&bad_context, ScoreOf({7, 257}), &response);
  EXPECT_EQ(bad.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(bad.error_message(), HasSubstr("257"));
}

TEST(TextTest, TokenizeAndDetokenize) {
  TestServer server;
  grpc::ClientContext a, b, c;
  v1::TokenizeRequest text;
  text.set_text("hé");
  v1::TokenizeResponse ids;
  ASSERT_TRUE(server.stub->Tokenize(&a, text, &ids).ok());
  EXPECT_THAT(ids.tokens().ids(), ::testing::ElementsAre(ByteTokenizer::kBos, 'h', 0xC3, 0xA9));
  v1::DetokenizeRequest back;
  *back.mutable_tokens() = ids.tokens();
  v1::DetokenizeResponse again;
  ASSERT_TRUE(server.stub->Detokenize(&b, back, &again).ok());
  EXPECT_EQ(again.text(), "hé");
  back.mutable_tokens()->add_ids(1000);
  EXPECT_EQ(server.stub->Detokenize(&c, back, &again).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(ModelTest, IsDescribed) {
  TestServerOptions options;
  options.executor.state_bytes = 4096;
  options.executor.position_limit = 512;
  TestServer server(std::move(options));
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub->GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.architecture(), "llama");
  EXPECT_THAT(model.layer_types(), ::testing::ElementsAre("linear_attention", "full_attention"));
  EXPECT_EQ(model.feature_map(), "t2r");
  EXPECT_EQ(model.feature_size(), 32u);
  EXPECT_EQ(model.state_bytes_per_session(), 4096u);
  EXPECT_EQ(model.vocab_size(), 257u);
  EXPECT_EQ(model.limits().max_sessions(), 4u);
  EXPECT_EQ(model.limits().max_positions(), 512u);
}

}  // namespace
}  // namespace t2r::server

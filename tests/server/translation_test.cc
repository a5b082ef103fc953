// Generate and Score of an encoder-decoder: what becomes source, target and refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int32_t kStart = TestServer::kStart;

TestServerOptions EncoderDecoder() {
  TestServerOptions options;
  options.executor.source_vocab_size = ByteTokenizer::kVocab;
  options.executor.max_source = 8;
  options.executor.position_limit = 30;
  return options;
}

std::vector<int32_t> Expected(const std::vector<int32_t>& prompt, int64_t n) {
  return ExpectedTokens(prompt, n, ByteTokenizer::kVocab);
}

std::string Refusal(TestServer& server, const v1::GenerateRequest& request) {
  const grpc::Status status = server.Generate(request)->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  return status.error_message();
}

grpc::Status Score(TestServer& server, const v1::ScoreRequest& request,
                   v1::ScoreResponse* response) {
  grpc::ClientContext context;
  return server.stub->Score(&context, request, response);
}

TEST(TranslationTest, ThePromptIsTheSource) {
  TestServer server(EncoderDecoder());
  auto stream = server.Generate(TextRequest("ab", 5));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->ids, Expected({kStart}, 5));
  EXPECT_EQ(stream->started->prompt_tokens(), 4u);  // BOS, a, b; start
  EXPECT_EQ(stream->finished->usage().prompt_tokens(), 4u);
  stream = server.Generate(TokenRequest({5, 6, 7, 8, 9}, 5));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->ids, Expected({kStart}, 5));
  EXPECT_EQ(stream->started->prompt_tokens(), 6u);
}

TEST(TranslationTest, MaxTokensFillThePositionsAfterThePrefix) {
  TestServer server(EncoderDecoder());
  v1::GenerateRequest request = TextRequest("ab", 0);
  auto stream = server.Generate(request);
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->started->max_tokens(), 30u);
  request.set_target_prefix_text("xyz");
  stream = server.Generate(request);
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->started->max_tokens(), 27u);
}

TEST(TranslationTest, APrefixFollowsTheStartToken) {
  TestServer server(EncoderDecoder());
  for (const bool text : {false, true}) {
    v1::GenerateRequest request = text ? TextRequest("ab", 5) : TokenRequest({3}, 5);
    request.set_target_prefix_text("xy");
    const auto from_text = server.Generate(request);
    ASSERT_TRUE(from_text->Finish().ok());
    EXPECT_EQ(from_text->ids, Expected({kStart, 'x', 'y'}, 5));
    request.mutable_target_prefix_tokens()->add_ids('x');
    const auto from_ids = server.Generate(request);
    ASSERT_TRUE(from_ids->Finish().ok());
    EXPECT_EQ(from_ids->ids, Expected({kStart, 'x'}, 5));
    EXPECT_EQ(from_ids->started->prompt_tokens(), text ? 5u : 3u);
    request.set_target_prefix_text("");
    const auto empty = server.Generate(request);
    ASSERT_TRUE(empty->Finish().ok());
    EXPECT_EQ(empty->ids, Expected({kStart}, 5));
  }
}

TEST(TranslationTest, RefusalsNameFieldAndLimit) {
  TestServer server(EncoderDecoder());
  EXPECT_THAT(Refusal(server, v1::GenerateRequest()), StartsWith("prompt: not set"));
  EXPECT_THAT(Refusal(server, TokenRequest({1, 2, 3, 4, 5, 6, 7, 8, 9}, 5)),
              HasSubstr("source has 9 tokens, more than the limit of 8"));
  EXPECT_THAT(Refusal(server, TextRequest("abcdefgh", 5)), HasSubstr("limit of 8"));
  EXPECT_THAT(Refusal(server, TokenRequest({257}, 5)),
              HasSubstr("tokens: id 257 is outside the vocabulary of 257"));
  v1::GenerateRequest request = TokenRequest({1}, 30);
  request.mutable_target_prefix_tokens()->add_ids(300);
  EXPECT_THAT(Refusal(server, request), StartsWith("target_prefix_tokens: id 300"));
  request.set_target_prefix_text("x");
  EXPECT_THAT(Refusal(server, request),
              HasSubstr("target of 2 tokens and max_tokens of 30 need 31 positions"));
}

TEST(TranslationTest, ScoresTheTargetGivenTheSource) {
  TestServer server(EncoderDecoder());
  v1::ScoreRequest request;
  v1::ScoreResponse response;
  request.mutable_tokens()->mutable_ids()->Add(7);
  request.mutable_tokens()->mutable_ids()->Add(8);
  grpc::Status status = Score(server, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("source: not set"));
  request.set_source_text("ab");
  status = Score(server, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.logprobs_size(), 2);
  EXPECT_THAT(response.tokens().ids(), ::testing::ElementsAre(7, 8));
  request.mutable_source_tokens()->add_ids(3);
  request.mutable_tokens()->mutable_ids()->RemoveLast();
  status = Score(server, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.logprobs_size(), 1);
  request.set_text("x");  // the tokenizer of the test closes no target, but begins it
  status = Score(server, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response.tokens().ids(), ::testing::ElementsAre(ByteTokenizer::kBos, 'x'));
  EXPECT_EQ(response.logprobs_size(), 2);
  request.clear_target();
  EXPECT_THAT(Score(server, request, &response).error_message(), StartsWith("target: not set"));
}

TEST(TranslationTest, WhatCanNeverFitIsNotTokenised) {
  TestServer server(EncoderDecoder());
  v1::GenerateRequest generate = TokenRequest({1, 2, 3, 4, 5, 6, 7, 8, 9}, 5);
  generate.set_target_prefix_text("x");
  EXPECT_THAT(Refusal(server, generate), HasSubstr("limit of 8"));
  v1::ScoreRequest score;
  *score.mutable_source_tokens() = generate.tokens();
  score.set_text("x");
  v1::ScoreResponse response;
  EXPECT_THAT(Score(server, score, &response).error_message(), HasSubstr("limit of 8"));
  EXPECT_EQ(server.tokenizer->encoded(), 0);
}

TEST(TranslationTest, OtherModelsRefuseSourceAndPrefix) {
  TestServer server;
  v1::GenerateRequest request = TokenRequest({1}, 5);
  request.set_target_prefix_text("x");
  EXPECT_THAT(Refusal(server, request), StartsWith("target_prefix: "));
  v1::ScoreRequest score;
  score.set_text("ab");
  score.set_source_text("ab");
  v1::ScoreResponse response;
  EXPECT_THAT(Score(server, score, &response).error_message(), StartsWith("source: "));
  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab");
  tokenize.set_target(true);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  EXPECT_THAT(server.stub->Tokenize(&context, tokenize, &tokens).error_message(),
              StartsWith("target: "));
}

TEST(TranslationTest, TheModelTellsItsKind) {
  TestServer server(EncoderDecoder());
  v1::GetModelResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(server.stub->GetModel(&context, v1::GetModelRequest(), &info).ok());
  EXPECT_TRUE(info.encoder_decoder());
  EXPECT_EQ(info.architecture(), "marian");
  EXPECT_THAT(info.cross_layer_types(),
              ::testing::ElementsAre("full_attention", "linear_attention"));
  EXPECT_EQ(info.encoder_layers(), 3u);
  EXPECT_EQ(info.source_vocab_size(), 257u);
  EXPECT_EQ(info.decoder_start_token_id(), 256u);
  EXPECT_EQ(info.limits().max_source_tokens(), 8u);
}

}  // namespace
}  // namespace t2r::server

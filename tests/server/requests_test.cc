// From the API's requests to the engine's: the model's defaults, and answers that are too large.
#include "server/requests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;

TestServerOptions WithDefaults() {
  TestServerOptions options;
  options.temperature = 0.75F;
  options.defaults = {.top_k = 20,
                      .top_p = 0.5F,
                      .min_p = 0.125F,
                      .repetition_penalty = 1.25F,
                      .max_new_tokens = 77};
  return options;
}

v1::GenerateRequest Unset() {
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  return request;
}

Request Made(const v1::GenerateRequest& request, const TestServer& server) {
  absl::StatusOr<PreparedRequest> made = MakeRequest(request, *server.model);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? made->request : Request();
}

TEST(RequestsTest, WhatIsUnsetIsAsTheModelSays) {
  const TestServer server(WithDefaults());
  const Request request = Made(Unset(), server);
  EXPECT_EQ(request.sampling.temperature, 0.75F);
  EXPECT_EQ(request.sampling.top_k, 20);
  EXPECT_EQ(request.sampling.top_p, 0.5F);
  EXPECT_EQ(request.sampling.min_p, 0.125F);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.25F);
  EXPECT_EQ(request.max_tokens, 77);

  v1::GetModelResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(server.stub->GetModel(&context, {}, &info).ok());
  EXPECT_EQ(info.defaults().ShortDebugString(),
            "temperature: 0.75 top_k: 20 top_p: 0.5 min_p: 0.125 repetition_penalty: 1.25 "
            "max_tokens: 77");
}

TEST(RequestsTest, WhatIsSetCountsAlsoWhereItIsOff) {
  const TestServer server(WithDefaults());
  v1::GenerateRequest in = Unset();
  in.set_max_tokens(78);
  v1::Sampling& sampling = *in.mutable_sampling();
  sampling.set_temperature(0.5F);
  sampling.set_top_k(0);
  sampling.set_top_p(0);
  sampling.set_min_p(0);
  sampling.set_repetition_penalty(0);
  const Request off = Made(in, server);
  EXPECT_EQ(off.sampling.temperature, 0.5F);
  EXPECT_EQ(off.sampling.top_k, 0);
  EXPECT_EQ(off.sampling.top_p, 1.0F);
  EXPECT_EQ(off.sampling.min_p, 0.0F);
  EXPECT_EQ(off.sampling.repetition_penalty, 1.0F);
  EXPECT_EQ(off.max_tokens, 78);
  sampling.set_top_k(3);
  sampling.set_top_p(0.25F);
  sampling.set_min_p(0.5F);
  sampling.set_repetition_penalty(2);
  const Request on = Made(in, server);
  EXPECT_EQ(on.sampling.top_k, 3);
  EXPECT_EQ(on.sampling.top_p, 0.25F);
  EXPECT_EQ(on.sampling.min_p, 0.5F);
  EXPECT_EQ(on.sampling.repetition_penalty, 2.0F);
}

TEST(RequestsTest, WithoutDefaultsAllIsOffAndTheServersLimitCounts) {
  TestServerOptions options;
  options.max_tokens = 50;
  const TestServer server(std::move(options));
  const Request request = Made(Unset(), server);
  EXPECT_EQ(request.sampling.temperature, 1.0F);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.top_p, 1.0F);
  EXPECT_EQ(request.sampling.min_p, 0.0F);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.0F);
  EXPECT_EQ(request.max_tokens, 50);
  v1::GetModelResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(server.stub->GetModel(&context, {}, &info).ok());
  EXPECT_EQ(info.defaults().ByteSizeLong(), 0U);
}

// transformers keeps the most likely token for a top_p of 0; here 0 is off in a request.
TEST(RequestsTest, ATopPOfZeroOfTheModelIsGreedy) {
  TestServerOptions options;
  options.defaults.top_p = 0.0F;
  const TestServer server(std::move(options));
  const Request request = Made(Unset(), server);
  EXPECT_GT(request.sampling.top_p, 0.0F);
  EXPECT_LT(request.sampling.top_p, 1e-30F);
}

TEST(RequestsTest, TheServersLimitCutsTheModelsTokens) {
  TestServerOptions options = WithDefaults();
  options.max_tokens = 50;
  const TestServer server(std::move(options));
  EXPECT_EQ(Made(Unset(), server).max_tokens, 50);
}

TEST(RequestsTest, BeamsTakeNoDefaultsButTheTokens) {
  const TestServer server(WithDefaults());
  v1::GenerateRequest in = Unset();
  in.mutable_beams()->set_count(2);
  const Request request = Made(in, server);
  EXPECT_EQ(request.sampling.temperature, 0.0F);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.top_p, 1.0F);
  EXPECT_EQ(request.sampling.min_p, 0.0F);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.0F);
  EXPECT_EQ(request.max_tokens, 77);
}

// A Score of n ids is answered with n - 1 numbers of four bytes and the ids, here of one and two
// bytes: 12 bytes of tags and lengths with them.
v1::ScoreRequest ScoreOf(int n) {
  v1::ScoreRequest request;
  for (int i = 0; i < n; ++i) request.mutable_tokens()->add_ids(i % 2 == 0 ? 5 : 200);
  return request;
}

TEST(AnswersTest, AScoreThatDoesNotFitIsRefusedBeforeTheWork) {
  TestServerOptions options;
  options.grpc.max_response_bytes = 5 * 4 * 1000;
  TestServer server(std::move(options));
  int fits = 3;
  for (int n = 3; n < 6000; ++n) {
    const bool ok = MakeRequest(ScoreOf(n), *server.model).ok();
    if (ok) fits = n;
    ASSERT_EQ(ok, fits == n) << n;
  }
  v1::ScoreResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server.stub->Score(&context, ScoreOf(fits), &response).ok());
  }
  EXPECT_EQ(response.logprobs_size(), fits - 1);
  // The next would take 5.5 bytes more on average.
  EXPECT_LE(response.ByteSizeLong(), 20'000U);
  EXPECT_GT(response.ByteSizeLong(), 20'000U - 6);
  const double steps = server.Metric("t2r_iteration_tokens_count");
  grpc::ClientContext context;
  const grpc::Status refused = server.stub->Score(&context, ScoreOf(fits + 1), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(),
              HasSubstr(absl::StrCat("the answer to ", fits + 1, " tokens")));
  EXPECT_THAT(refused.error_message(), HasSubstr("limit of 20000 (--max-response-bytes)"));
  EXPECT_EQ(server.Metric("t2r_iteration_tokens_count"), steps);
  EXPECT_EQ(server.Metric("t2r_num_requests_waiting"), 0);
}

TEST(AnswersTest, ATextIsRefusedOnceItsTokensAreKnown) {
  TestServerOptions options;
  options.grpc.max_response_bytes = 1000;
  TestServer server(std::move(options));
  v1::ScoreRequest request;
  request.set_text(std::string(500, 'a'));
  v1::ScoreResponse response;
  grpc::ClientContext context;
  const grpc::Status refused = server.stub->Score(&context, request, &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("the answer to 501 tokens"));
  EXPECT_EQ(server.Metric("t2r_iteration_tokens_count"), 0);
}

TEST(AnswersTest, TokensAndTextsNameTheLimit) {
  TestServerOptions options;
  options.grpc.max_response_bytes = 1000;
  TestServer server(std::move(options));
  v1::TokenizeRequest text;
  text.set_text(std::string(1000, 'a'));
  v1::TokenizeResponse ids;
  {
    grpc::ClientContext context;
    const grpc::Status status = server.stub->Tokenize(&context, text, &ids);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("limit of 1000 (--max-response-bytes)"));
  }
  text.set_text(std::string(900, 'a'));
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server.stub->Tokenize(&context, text, &ids).ok());
  }
  v1::DetokenizeRequest tokens;
  v1::DetokenizeResponse back;
  *tokens.mutable_tokens() = ids.tokens();
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server.stub->Detokenize(&context, tokens, &back).ok());
  }
  EXPECT_EQ(back.text(), text.text());
  for (int i = 0; i < 5000; ++i) tokens.mutable_tokens()->add_ids('b');
  grpc::ClientContext context;
  const grpc::Status status = server.stub->Detokenize(&context, tokens, &back);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  // The BOS, the 900 letters, and a hundred and one more: it was told at once.
  EXPECT_THAT(status.error_message(), HasSubstr("the text of the first 1002 of 5901 ids"));
}

TEST(AnswersTest, HypothesesFit) {
  TestServerOptions options;
  options.grpc.max_response_bytes = 1200;
  TestServer server(std::move(options));
  v1::GenerateRequest in = Unset();
  in.mutable_beams()->set_count(3);
  in.mutable_beams()->set_num_return(3);
  // Ids below 2^14 take two bytes at most.
  EXPECT_EQ(Made(in, server).max_tokens, 200);
  in.set_max_tokens(200);
  EXPECT_EQ(Made(in, server).max_tokens, 200);
  in.set_max_tokens(201);
  const absl::Status refused = MakeRequest(in, *server.model).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("max_tokens: 3 hypotheses of 201 tokens can have more bytes than this "
                        "server's limit of 1200 (--max-response-bytes)"));
  in.mutable_beams()->set_num_return(1);
  EXPECT_EQ(Made(in, server).max_tokens, 201);
}

}  // namespace
}  // namespace t2r::server

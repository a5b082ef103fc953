// Generate with beams: what comes back, what is refused, and how it ends early.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// After the prompt of one id: "a" or "b"; then "c" or the end, which is 'z'.
std::vector<TokenLogprob> Letters(std::span<const int32_t> history, int64_t /*n*/) {
  if (history.size() == 1) return {{'a', -0.5F}, {'b', -1.0F}, {'c', -4.0F}};
  if (history.back() == 'b') return {{'z', -0.25F}, {'c', -3.0F}};
  return {{'c', -0.5F}, {'z', -1.0F}};
}

TestServerOptions LetterServer() {
  TestServerOptions options;
  options.alternatives = Letters;
  options.scheduler.eos_token_ids = {'z'};
  return options;
}

v1::GenerateRequest BeamRequest(uint32_t count, uint32_t max_tokens) {
  v1::GenerateRequest request = TokenRequest({3}, max_tokens);
  request.clear_sampling();
  request.mutable_beams()->set_count(count);
  return request;
}

TEST(ServerBeamsTest, SendsTheHypothesesInFinished) {
  TestServer server(LetterServer());
  v1::GenerateRequest request = BeamRequest(2, 3);
  request.mutable_beams()->set_num_return(2);
  request.mutable_sampling()->set_seed(9);
  const auto stream = server.Generate(request);
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(stream->started->seed(), 9U);
  EXPECT_THAT(stream->ids, ElementsAre());
  const v1::Finished& finished = *stream->finished;
  // ac −1.0 and b-end −1.25, az being third; then acc −1.5 and ac-end −2, which max_tokens ends.
  ASSERT_EQ(finished.hypotheses_size(), 2);
  const v1::Hypothesis& first = finished.hypotheses(0);
  EXPECT_EQ(first.text(), "acc");
  EXPECT_THAT(first.token_ids(), ElementsAre('a', 'c', 'c'));
  EXPECT_FLOAT_EQ(first.score(), -1.5F / 3);
  EXPECT_EQ(first.reason(), v1::FINISH_REASON_LENGTH);
  const v1::Hypothesis& second = finished.hypotheses(1);
  EXPECT_EQ(second.text(), "b");
  EXPECT_THAT(second.token_ids(), ElementsAre('b', 'z'));
  EXPECT_FLOAT_EQ(second.score(), -1.25F / 2);
  EXPECT_EQ(second.reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(finished.usage().prompt_tokens(), 1U);
  EXPECT_EQ(finished.usage().generated_tokens(), 5U);
  EXPECT_EQ(server.Metric("t2r_generation_tokens_total"), 5);
  EXPECT_EQ(server.Metric("t2r_slots_used"), 0);
}

TEST(ServerBeamsTest, TakesEveryParameter) {
  TestServer server(LetterServer());
  v1::GenerateRequest request = BeamRequest(2, 40);
  const auto lengths = [&] {
    const auto stream = server.Generate(request);
    EXPECT_TRUE(stream->Finish().ok());
    std::vector<int> sizes;
    for (const auto& each : stream->finished->hypotheses()) sizes.push_back(each.token_ids_size());
    return sizes;
  };
  v1::Beams& beams = *request.mutable_beams();
  EXPECT_THAT(lengths(), ElementsAre(40)) << "one, of the mean log probability's best";
  beams.set_num_return(2);
  beams.set_length_penalty(0);
  EXPECT_THAT(lengths(), ElementsAre(2, 3)) << "of the sum's best";
  beams.set_length_penalty(3);
  beams.set_early_stopping(v1::EARLY_STOPPING_TRUE);
  EXPECT_THAT(lengths(), ElementsAre(3, 2));
  beams.set_early_stopping(v1::EARLY_STOPPING_NEVER);
  EXPECT_THAT(lengths(), ElementsAre(40, 40));
}

TEST(ServerBeamsTest, NamesWhatIsWrong) {
  TestServerOptions options = LetterServer();
  options.scheduler.max_beams = 3;
  TestServer server(std::move(options));
  struct Case {
    const char* message;
    std::function<void(v1::GenerateRequest&)> change;
  };
  const std::vector<Case> cases = {
      {"beams.count: 0", [](auto& r) { r.mutable_beams()->set_count(0); }},
      {"max_beams", [](auto& r) { r.mutable_beams()->set_count(4); }},
      {"beams.count", [](auto& r) { r.mutable_beams()->set_count(4294967295U); }},
      {"beams.num_return is 3", [](auto& r) { r.mutable_beams()->set_num_return(3); }},
      {"beams.length_penalty", [](auto& r) { r.mutable_beams()->set_length_penalty(NAN); }},
      {"beams.early_stopping: 7",
       [](auto& r) { r.mutable_beams()->set_early_stopping(static_cast<v1::EarlyStopping>(7)); }},
      {"temperature", [](auto& r) { r.mutable_sampling()->set_temperature(0.5F); }},
      {"top_k", [](auto& r) { r.mutable_sampling()->set_top_k(5); }},
      {"repetition_penalty", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(2); }},
      {"logprobs", [](auto& r) { r.set_logprobs(1); }},
      {"stop", [](auto& r) { r.add_stop("x"); }},
  };
  for (const Case& each : cases) {
    v1::GenerateRequest request = BeamRequest(2, 5);
    each.change(request);
    const grpc::Status status = server.Generate(request)->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << each.message;
    EXPECT_THAT(status.error_message(), HasSubstr(each.message));
  }
  v1::GenerateRequest request = BeamRequest(2, 5);
  request.mutable_sampling()->set_temperature(0);
  EXPECT_TRUE(server.Generate(request)->Finish().ok());
}

TEST(ServerBeamsTest, AClientThatGoesFreesEverySlot) {
  TestServerOptions options = LetterServer();
  options.scheduler.eos_token_ids = {};
  TestServer server(std::move(options));
  const auto stream = server.Generate(BeamRequest(4, 1 << 20));
  v1::GenerateResponse event;
  ASSERT_TRUE(stream->Next(&event));
  EXPECT_TRUE(event.has_started());
  EXPECT_EQ(server.Metric("t2r_slots_used"), 4);
  EXPECT_EQ(server.Metric("t2r_num_requests_running"), 1);
  stream->Cancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitUntil([&] { return server.Metric("t2r_slots_used") == 0; }));
  EXPECT_EQ(server.Metric("t2r_request_success_total{finished_reason=\"cancelled\"}"), 1);
}

// Four beams run four tokens a round, whatever comes back.
TEST(ServerBeamsTest, EveryBeamCountsAgainstTokensAMinute) {
  const std::string limits = ::testing::TempDir() + "t2r-beams-limits-" + std::to_string(getpid());
  std::ofstream(limits) << R"({"default": {"tokens_per_minute": 20}})";
  TestServerOptions options;
  options.alternatives = [](std::span<const int32_t>, int64_t) {
    return std::vector<TokenLogprob>{{'a', -0.5F}, {'b', -1.0F}, {'c', -2.0F}, {'d', -3.0F}};
  };
  options.grpc.tenants = limits;
  TestServer server(std::move(options));
  ASSERT_TRUE(server.Generate(BeamRequest(4, 8))->Finish().ok());
  const grpc::Status next = server.Generate(BeamRequest(4, 8))->Finish();
  EXPECT_EQ(next.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(next.error_message(), HasSubstr("tokens_per_minute"));
  std::remove(limits.c_str());
}

TEST(ServerBeamsTest, ADrainSendsWhatHasEnded) {
  TestServerOptions options = LetterServer();
  options.alternatives = [](std::span<const int32_t> history, int64_t) {
    // One ends at once, the others never.
    std::vector<TokenLogprob> top = {{'a', -0.5F}, {'b', -3.0F}};
    if (history.size() == 1) top.insert(top.begin(), {'z', -0.25F});
    return top;
  };
  TestServer server(std::move(options));
  v1::GenerateRequest request = BeamRequest(3, 500'000);
  request.mutable_beams()->set_num_return(3);
  const auto stream = server.Generate(request);
  v1::GenerateResponse event;
  ASSERT_TRUE(stream->Next(&event));
  EXPECT_TRUE(WaitUntil([&] { return server.executor.steps() > 3; }));
  server.Drain(absl::ZeroDuration());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(stream->finished.has_value());
  EXPECT_EQ(stream->finished->reason(), v1::FINISH_REASON_DRAINED);
  ASSERT_EQ(stream->finished->hypotheses_size(), 1);
  EXPECT_THAT(stream->finished->hypotheses(0).token_ids(), ElementsAre('z'));
  EXPECT_EQ(stream->finished->hypotheses(0).text(), "");
}

}  // namespace
}  // namespace t2r::server

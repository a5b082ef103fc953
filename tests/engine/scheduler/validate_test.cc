#include "engine/scheduler/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "engine/ops/enum_names.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ExecutorLimits Limits() {
  ExecutorLimits limits;
  limits.slots = 2;
  limits.max_step_tokens = 8;
  limits.vocab_size = 100;
  return limits;
}

struct Case {
  const char* name;
  std::function<void(Request&)> change;
  std::vector<std::string> message;  // parts of it; empty: accepted
};

class ValidateTest : public ::testing::TestWithParam<Case> {};

TEST_P(ValidateTest, NamesFieldAndLimit) {
  Request request = MakeRequest(4, 5);
  GetParam().change(request);
  const absl::Status status = ValidateRequest(request, Limits(), SchedulerOptions(), true);
  if (GetParam().message.empty()) {
    EXPECT_TRUE(status.ok()) << status;
    return;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  for (const std::string& part : GetParam().message) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, ValidateTest,
    ::testing::Values(
        Case{"Plain", [](Request&) {}, {}},
        Case{"EmptyPrompt", [](Request& r) { r.prompt.clear(); }, {"prompt", "at least 1"}},
        Case{"LargeId", [](Request& r) { r.prompt[2] = 100; }, {"prompt[2]", "100", "0 to 99"}},
        Case{"LargestId", [](Request& r) { r.prompt[2] = 99; }, {}},
        Case{"NegativeId", [](Request& r) { r.prompt[0] = -1; }, {"prompt[0]", "-1"}},
        Case{"NoTokens", [](Request& r) { r.max_tokens = 0; }, {"max_tokens", "at least 1"}},
        Case{"ManyTokens",
             [](Request& r) { r.max_tokens = std::numeric_limits<int64_t>::max(); },
             {}},
        Case{"Cold", [](Request& r) { r.sampling.temperature = -0.1F; }, {"temperature", "[0, 100]"}},
        Case{"Hot", [](Request& r) { r.sampling.temperature = 100.5F; }, {"temperature", "100.5"}},
        Case{"NanTemperature", [](Request& r) { r.sampling.temperature = kNan; }, {"temperature"}},
        Case{"InfTemperature", [](Request& r) { r.sampling.temperature = kInf; }, {"temperature"}},
        Case{"TopK", [](Request& r) { r.sampling.top_k = -1; }, {"top_k", "-1", "at least 0"}},
        Case{"TopPZero", [](Request& r) { r.sampling.top_p = 0; }, {"top_p", "(0, 1]"}},
        Case{"TopPOver", [](Request& r) { r.sampling.top_p = 1.01F; }, {"top_p", "1.01"}},
        Case{"TopPNan", [](Request& r) { r.sampling.top_p = kNan; }, {"top_p"}},
        Case{"MinP", [](Request& r) { r.sampling.min_p = -0.5F; }, {"min_p", "[0, 1]"}},
        Case{"MinPOne", [](Request& r) { r.sampling.min_p = 1; }, {}},
        Case{"Repetition",
             [](Request& r) { r.sampling.repetition_penalty = 0; },
             {"repetition_penalty", "(0, 100]"}},
        Case{"Frequency",
             [](Request& r) { r.sampling.frequency_penalty = 2.5F; },
             {"frequency_penalty", "[-2, 2]"}},
        Case{"Presence",
             [](Request& r) { r.sampling.presence_penalty = -kInf; },
             {"presence_penalty", "[-2, 2]"}},
        Case{"BiasId", [](Request& r) { r.sampling.logit_bias = {{100, 1}}; }, {"logit_bias", "100"}},
        Case{"BiasValue",
             [](Request& r) { r.sampling.logit_bias = {{7, 101}}; },
             {"logit_bias", "token 7", "[-100, 100]"}},
        Case{"BiasCount",
             [](Request& r) { r.sampling.logit_bias.assign(1025, {7, 1}); },
             {"logit_bias", "1025", "1024"}},
        Case{"StopCount",
             [](Request& r) { r.stop.assign(17, "x"); },
             {"stop", "17", "16"}},
        Case{"StopEmpty", [](Request& r) { r.stop = {"a", ""}; }, {"stop[1]", "empty"}},
        Case{"StopLong",
             [](Request& r) { r.stop = {std::string(257, 'x')}; },
             {"stop[0]", "257", "256"}},
        Case{"StopIdRange",
             [](Request& r) { r.stop_token_ids = {5, 1000}; },
             {"stop_token_ids[1]", "1000"}},
        Case{"StopIdCount",
             [](Request& r) { r.stop_token_ids.assign(129, 5); },
             {"stop_token_ids", "129", "128"}},
        Case{"Logprobs", [](Request& r) { r.top_logprobs = 21; }, {"logprobs", "21", "[0, 20]"}},
        Case{"ScoreIgnoresSampling",
             [](Request& r) {
               r.score = true;
               r.max_tokens = 0;
               r.sampling.top_p = 0;
             },
             {}},
        Case{"ScoreId",
             [](Request& r) {
               r.score = true;
               r.prompt.back() = 100;
             },
             {"prompt[3]"}},
        Case{"ScoreEmpty",
             [](Request& r) {
               r.score = true;
               r.prompt.clear();
             },
             {"prompt", "at least 1"}}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

TEST(ValidateLengthTest, PositionLimit) {
  ExecutorLimits limits = Limits();
  limits.position_limit = 8;
  EXPECT_TRUE(ValidateRequest(MakeRequest(4, 5), limits, SchedulerOptions(), true).ok());
  const absl::Status status = ValidateRequest(MakeRequest(4, 6), limits, SchedulerOptions(), true);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("max_tokens of 6"), HasSubstr("9 positions"), HasSubstr("8")));

  Request score = MakeRequest(9, 0);
  score.score = true;
  EXPECT_TRUE(ValidateRequest(score, limits, SchedulerOptions(), true).ok());
  score.prompt.push_back(1);
  EXPECT_FALSE(ValidateRequest(score, limits, SchedulerOptions(), true).ok());
}

TEST(ValidateLengthTest, HugeLengthDoesNotOverflow) {
  ExecutorLimits limits = Limits();
  limits.position_limit = 8;
  const Request request = MakeRequest(4, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(request.positions(), std::numeric_limits<int64_t>::max());
  EXPECT_FALSE(ValidateRequest(request, limits, SchedulerOptions(), true).ok());
}

TEST(ValidateLengthTest, PagesOfTheCache) {
  ExecutorLimits limits = Limits();
  limits.position_limit = 1000;
  limits.kv_pages = 2;  // 128 positions
  EXPECT_TRUE(ValidateRequest(MakeRequest(100, 29), limits, SchedulerOptions(), true).ok());
  const absl::Status status =
      ValidateRequest(MakeRequest(100, 30), limits, SchedulerOptions(), true);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("128"), HasSubstr("key/value cache")));
}

TEST(ValidateTokenizerTest, StopStringsNeedOne) {
  Request request = MakeRequest(4, 5);
  request.stop = {"x"};
  const absl::Status status = ValidateRequest(request, Limits(), SchedulerOptions(), false);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("stop_token_ids"));
}

TEST(RequestTest, Positions) {
  Request request = MakeRequest(4, 1);
  EXPECT_EQ(request.positions(), 4);
  request.max_tokens = 10;
  EXPECT_EQ(request.positions(), 13);
  request.score = true;
  EXPECT_EQ(request.positions(), 3);
}

TEST(RequestTest, EveryReasonHasANameOfItsOwn) {
  std::set<std::string> names;
  ForEach<FinishReason>([&](FinishReason reason) {
    EXPECT_TRUE(names.insert(NameOf(reason)).second) << NameOf(reason);
    EXPECT_EQ(Parse<FinishReason>(NameOf(reason)), reason);
  });
  EXPECT_EQ(names.size(), 9U);
  EXPECT_EQ(Parse<FinishReason>(""), std::nullopt);
}

TEST(ValidateSourceTest, OnlyEncodersTakeOneAndWithinTheirLimit) {
  const auto check = [](size_t source, int64_t max_source) {
    Request request = MakeRequest(1, 5);
    request.source.assign(source, 3);
    ExecutorLimits limits = Limits();
    limits.max_source = max_source;
    limits.source_vocab_size = 4;
    const absl::Status status = ValidateRequest(request, limits, SchedulerOptions(), true);
    return std::string(status.message());
  };
  EXPECT_EQ(check(0, 0), "");
  EXPECT_EQ(check(7, 7), "");
  EXPECT_THAT(check(1, 0), AllOf(HasSubstr("source"), HasSubstr("no encoder")));
  EXPECT_THAT(check(0, 7), AllOf(HasSubstr("source"), HasSubstr("at least 1")));
  EXPECT_THAT(check(8, 7), AllOf(HasSubstr("source has 8"), HasSubstr("limit of 7")));
}

TEST(ValidateSourceTest, IdsAreOfTheSourcesVocabulary) {
  Request request = MakeRequest(2, 5);
  request.source = {0, 3, 4};
  ExecutorLimits limits = Limits();
  limits.max_source = 7;
  limits.source_vocab_size = 4;
  const auto check = [&] {
    return std::string(ValidateRequest(request, limits, SchedulerOptions(), true).message());
  };
  EXPECT_THAT(check(), AllOf(HasSubstr("source[2] is 4"), HasSubstr("vocabulary of 4")));
  limits.source_vocab_size = 5;
  EXPECT_EQ(check(), "");
  limits.position_limit = 5;
  EXPECT_THAT(check(), HasSubstr("target of 2 tokens and max_tokens of 5 need 6 positions"));
}

}  // namespace
}  // namespace t2r

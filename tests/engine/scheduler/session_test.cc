#include "engine/scheduler/session.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

constexpr int32_t kEos = 0;

// Ids: 0 is end of sequence, 1 a special token, then these pieces.
const std::vector<std::string> kPieces = {"", "", "Hel", "lo", " wor", "ld", "!", "\xC3", "\xA9"};
enum : int32_t { kSpecial = 1, kHel, kLo, kWor, kLd, kBang, kC3, kA9 };

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<std::string> texts;  // of each token
  std::string text;                // all
  FinishEvent finish;
  bool ended = false;  // by itself
};

// Feeds `tokens` as samples until the session ends; then ends it with kCancelled if it did not.
Outcome Play(Request request, const std::vector<int32_t>& tokens, bool tokenizer = true) {
  const FakeTokenizer pieces(kPieces);
  const std::vector<int32_t> eos = {kEos};
  auto sink = std::make_shared<FakeSink>();
  Session session(std::move(request), sink, tokenizer ? &pieces : nullptr, eos, absl::UnixEpoch());
  session.Open(0, absl::UnixEpoch());
  sink->OnStarted(1);
  std::optional<FinishReason> reason;
  for (const int32_t token : tokens) {
    const int64_t rows = session.prefilling() ? session.prompt_rows_left() : 1;
    ChunkResult result;
    result.sampled = {token, -0.5F};
    reason = session.Accept(rows, std::move(result), absl::UnixEpoch());
    session.Deliver(1);
    if (reason) break;
  }
  Outcome outcome;
  outcome.ended = reason.has_value();
  sink->OnFinished(session.MakeFinish(reason.value_or(FinishReason::kCancelled),
                                      reason ? absl::OkStatus() : absl::CancelledError("test"),
                                      absl::UnixEpoch()));
  outcome.tokens = sink->tokens();
  for (const TokenEvent& event : sink->events()) outcome.texts.push_back(event.text);
  outcome.text = sink->text();
  outcome.finish = sink->WaitUntilFinished();
  return outcome;
}

Request Plain(int64_t max_tokens = 100) {
  Request request;
  request.prompt = {kBang};
  request.max_tokens = max_tokens;
  return request;
}

TEST(SessionTest, StreamsText) {
  const Outcome outcome = Play(Plain(4), {kHel, kLo, kWor, kLd});
  EXPECT_EQ(outcome.text, "Hello world");
  EXPECT_EQ(outcome.texts, (std::vector<std::string>{"Hel", "lo", " wor", "ld"}));
  EXPECT_EQ(outcome.finish.reason, FinishReason::kLength);
  EXPECT_EQ(outcome.finish.generated_tokens, 4);
  EXPECT_EQ(outcome.finish.prompt_tokens, 1);
}

TEST(SessionTest, EosIsReportedWithoutText) {
  const Outcome outcome = Play(Plain(), {kHel, kEos, kLo});
  EXPECT_EQ(outcome.tokens, (std::vector<int32_t>{kHel, kEos}));
  EXPECT_EQ(outcome.text, "Hel");
  EXPECT_EQ(outcome.finish.reason, FinishReason::kEos);
  EXPECT_EQ(outcome.finish.generated_tokens, 2);
}

TEST(SessionTest, IgnoresEosWhenTold) {
  Request request = Plain(3);
  request.ignore_eos = true;
  const Outcome outcome = Play(request, {kHel, kEos, kLo});
  EXPECT_EQ(outcome.tokens, (std::vector<int32_t>{kHel, kEos, kLo}));
  EXPECT_EQ(outcome.text, "Hello");
  EXPECT_EQ(outcome.finish.reason, FinishReason::kLength);
}

TEST(SessionTest, EosOnTheLastAllowedTokenIsEos) {
  EXPECT_EQ(Play(Plain(2), {kHel, kEos}).finish.reason, FinishReason::kEos);
}

TEST(SessionTest, StopTokenIsReportedWithoutText) {
  Request request = Plain();
  request.stop_token_ids = {kWor, kLo};
  const Outcome outcome = Play(request, {kHel, kLo, kWor});
  EXPECT_EQ(outcome.tokens, (std::vector<int32_t>{kHel, kLo}));
  EXPECT_EQ(outcome.text, "Hel");
  EXPECT_EQ(outcome.finish.reason, FinishReason::kStop);
  EXPECT_EQ(outcome.finish.matched_stop, "");
}

TEST(SessionTest, StopStringAcrossTokensNeverLeaks) {
  Request request = Plain();
  request.stop = {"nothing", "o wo"};
  const Outcome outcome = Play(request, {kHel, kLo, kWor, kLd});
  EXPECT_EQ(outcome.tokens, (std::vector<int32_t>{kHel, kLo, kWor}));
  EXPECT_EQ(outcome.text, "Hell");
  EXPECT_EQ(outcome.texts[1], "l");
  EXPECT_EQ(outcome.finish.reason, FinishReason::kStop);
  EXPECT_EQ(outcome.finish.matched_stop, "o wo");
  EXPECT_EQ(outcome.finish.generated_tokens, 3);
}

TEST(SessionTest, StopStringIncluded) {
  Request request = Plain();
  request.stop = {"o wo"};
  request.include_stop = true;
  const Outcome outcome = Play(request, {kHel, kLo, kWor, kLd});
  EXPECT_EQ(outcome.text, "Hello wo");
  EXPECT_EQ(outcome.finish.matched_stop, "o wo");
}

TEST(SessionTest, HeldBackTextComesWithTheEnd) {
  Request request = Plain(2);
  request.stop = {"lord"};
  const Outcome outcome = Play(request, {kHel, kLo});
  EXPECT_EQ(outcome.texts, (std::vector<std::string>{"He", "l"}));
  EXPECT_EQ(outcome.finish.text, "lo");
  EXPECT_EQ(outcome.finish.reason, FinishReason::kLength);
}

TEST(SessionTest, HeldBackTextComesWithACancellation) {
  Request request = Plain();
  request.stop = {"lord"};
  const Outcome outcome = Play(request, {kHel, kLo});
  EXPECT_FALSE(outcome.ended);
  EXPECT_EQ(outcome.text, "Hello");
  EXPECT_EQ(outcome.finish.status.code(), absl::StatusCode::kCancelled);
}

TEST(SessionTest, TextIsWholeCodePoints) {
  const Outcome outcome = Play(Plain(3), {kC3, kA9, kC3});
  EXPECT_EQ(outcome.texts, (std::vector<std::string>{"", "\xC3\xA9", ""}));
  EXPECT_EQ(outcome.finish.text, "\xEF\xBF\xBD");
}

TEST(SessionTest, AStopStringThatOnlyTheEndCompletes) {
  Request request = Plain(2);
  request.stop = {"\xEF\xBF\xBD"};
  const Outcome outcome = Play(request, {kHel, kC3});
  EXPECT_EQ(outcome.text, "Hel");
  EXPECT_EQ(outcome.finish.reason, FinishReason::kStop);
  EXPECT_EQ(outcome.finish.matched_stop, "\xEF\xBF\xBD");
}

TEST(SessionTest, WithoutTokenizerThereIsNoText) {
  const Outcome outcome = Play(Plain(2), {kHel, kLo}, false);
  EXPECT_EQ(outcome.tokens.size(), 2U);
  EXPECT_EQ(outcome.text, "");
}

TEST(SessionTest, SpecialTokensHaveNoText) {
  EXPECT_EQ(Play(Plain(3), {kHel, kSpecial, kLo}).text, "Hello");
}

}  // namespace
}  // namespace t2r

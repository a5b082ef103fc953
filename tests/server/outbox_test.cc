#include "server/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace t2r::server {
namespace {

using ::testing::ElementsAre;

TokenEvent Token(int32_t id, std::string text) {
  TokenEvent event;
  event.token = id;
  event.logprob = -0.5F;
  event.text = std::move(text);
  return event;
}

FinishEvent Finish(FinishReason reason, absl::Status status = absl::OkStatus()) {
  FinishEvent event;
  event.reason = reason;
  event.status = std::move(status);
  event.prompt_tokens = 3;
  event.cached_prompt_tokens = 1;
  event.generated_tokens = 2;
  event.decode_time = absl::Milliseconds(1500);
  return event;
}

TEST(OutboxTest, MergesTokensThatWaitTogether) {
  Outbox outbox({});
  v1::GenerateResponse message;
  EXPECT_EQ(outbox.Pop(&message), Outbox::Next::kNothing);
  v1::Started started;
  started.set_seed(7);
  outbox.PushStarted(started);
  outbox.PushToken(Token(4, "a"));
  outbox.PushToken(Token(5, "b"));
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kMessage);
  EXPECT_EQ(message.started().seed(), 7u);
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kMessage);
  EXPECT_EQ(message.delta().text(), "ab");
  EXPECT_THAT(message.delta().token_ids(), ElementsAre(4, 5));
  EXPECT_EQ(message.delta().logprobs_size(), 2);
  EXPECT_EQ(outbox.Pop(&message), Outbox::Next::kNothing);
  EXPECT_TRUE(outbox.empty());
  outbox.PushToken(Token(6, "c"));
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kMessage);
  EXPECT_THAT(message.delta().token_ids(), ElementsAre(6));
}

TEST(OutboxTest, IsBoundedInTokensAndBytes) {
  Outbox few({.tokens = 2, .bytes = 1 << 20});
  few.PushToken(Token(1, ""));
  EXPECT_TRUE(few.HasRoom(1));
  EXPECT_FALSE(few.HasRoom(2));
  few.PushToken(Token(1, ""));
  EXPECT_FALSE(few.HasRoom(1));
  v1::GenerateResponse message;
  few.Pop(&message);
  EXPECT_TRUE(few.HasRoom(1));

  Outbox small({.tokens = 1000, .bytes = 100});
  small.PushToken(Token(1, std::string(200, 'x')));
  EXPECT_FALSE(small.HasRoom(1));
  small.Pop(&message);
  EXPECT_TRUE(small.HasRoom(1));

  // The byte bound is not below what tokens with alternatives take on the wire.
  Outbox heavy({.tokens = 1000, .bytes = 1000});
  TokenEvent token = Token(1, "abc");
  token.top.resize(20, {1 << 20, -1.0F});
  int64_t tokens = 0;
  for (; heavy.HasRoom(1); ++tokens) heavy.PushToken(token);
  heavy.Pop(&message);
  EXPECT_LE(message.ByteSizeLong(), 1000u + message.ByteSizeLong() / static_cast<size_t>(tokens));
}

TEST(OutboxTest, EndsWithHeldTextUsageAndStatus) {
  Outbox outbox({});
  FinishEvent event = Finish(FinishReason::kStop);
  event.text = "tail";
  event.matched_stop = "END";
  outbox.PushFinished(event);
  v1::GenerateResponse message;
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kMessage);
  EXPECT_EQ(message.delta().text(), "tail");
  EXPECT_EQ(message.delta().token_ids_size(), 0);
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kLastMessage);
  EXPECT_EQ(message.finished().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(message.finished().stop(), "END");
  EXPECT_EQ(message.finished().usage().generated_tokens(), 2u);
  EXPECT_EQ(message.finished().usage().cached_prompt_tokens(), 1u);
  EXPECT_EQ(message.finished().usage().decode_time().seconds(), 1);
  EXPECT_EQ(message.finished().usage().decode_time().nanos(), 500'000'000);
  EXPECT_TRUE(outbox.status().ok());
}

TEST(OutboxTest, HypothesesThatDoNotFitAreAStatus) {
  FinishEvent event = Finish(FinishReason::kLength);
  event.hypotheses.resize(1);
  event.hypotheses[0].text = std::string(93, 'x');
  event.hypotheses[0].score = -1;
  v1::GenerateResponse message;
  Outbox fits({.message_bytes = 131});
  fits.PushFinished(event);
  ASSERT_EQ(fits.Pop(&message), Outbox::Next::kLastMessage);
  EXPECT_EQ(message.ByteSizeLong(), 131U);
  event.hypotheses[0].text += "y";
  Outbox large({.message_bytes = 131});
  large.PushFinished(event);
  ASSERT_EQ(large.Pop(&message), Outbox::Next::kEnd);
  EXPECT_TRUE(absl::IsInvalidArgument(large.status())) << large.status();
  EXPECT_THAT(std::string(large.status().message()),
              ::testing::HasSubstr("limit of 131 (--max-response-bytes)"));
}

TEST(OutboxTest, DrainedIsAFinishedAndAStatus) {
  Outbox outbox({});
  outbox.PushFinished(Finish(FinishReason::kDrained, absl::UnavailableError("bye")));
  v1::GenerateResponse message;
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kMessage);
  EXPECT_EQ(message.finished().reason(), v1::FINISH_REASON_DRAINED);
  ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kEnd);
  EXPECT_EQ(outbox.status().code(), absl::StatusCode::kUnavailable);
}

TEST(OutboxTest, OtherEndsAreAStatusAlone) {
  for (const FinishReason reason : {FinishReason::kCancelled, FinishReason::kDeadline,
                                    FinishReason::kStalled, FinishReason::kError}) {
    Outbox outbox({});
    outbox.PushFinished(Finish(reason, absl::AbortedError("why")));
    v1::GenerateResponse message;
    ASSERT_EQ(outbox.Pop(&message), Outbox::Next::kEnd);
    EXPECT_EQ(outbox.status(), absl::AbortedError("why"));
  }
}

}  // namespace
}  // namespace t2r::server

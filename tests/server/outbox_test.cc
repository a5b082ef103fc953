#include "server/outbox.h"

#include <gmock/gmock.h>
#include <grpcpp/support/slice.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "server/messages.h"

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

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

// The next message as it goes out; *message stays as it is where there is none.
Outbox::Next Pop(Outbox& outbox, v1::GenerateResponse* message) {
  OutboxMessage taken;
  const Outbox::Next next = outbox.Pop(&taken);
  if (next != Outbox::Next::kMessage && next != Outbox::Next::kLastMessage) return next;
  message->Clear();
  EXPECT_TRUE(ParseMessage(taken.ToWire(), message).ok());
  return next;
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
  EXPECT_EQ(Pop(outbox, &message), Outbox::Next::kNothing);
  v1::Started started;
  started.set_seed(7);
  outbox.PushStarted(started);
  outbox.PushToken(Token(4, "a"));
  outbox.PushToken(Token(5, "b"));
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_EQ(message.started().seed(), 7u);
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_EQ(message.delta().text(), "ab");
  EXPECT_THAT(message.delta().token_ids(), ElementsAre(4, 5));
  EXPECT_EQ(message.delta().logprobs_size(), 2);
  EXPECT_EQ(Pop(outbox, &message), Outbox::Next::kNothing);
  EXPECT_TRUE(outbox.empty());
  outbox.PushToken(Token(6, "c"));
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_THAT(message.delta().token_ids(), ElementsAre(6));
}

TEST(OutboxTest, IsBoundedInTokensAndBytes) {
  Outbox few({.tokens = 2, .bytes = 1 << 20});
  few.PushToken(Token(1, ""));
  EXPECT_EQ(few.Room(), 1);
  few.PushToken(Token(1, ""));
  EXPECT_EQ(few.Room(), 0);
  v1::GenerateResponse message;
  Pop(few, &message);
  EXPECT_EQ(few.Room(), 2);

  Outbox small({.tokens = 1000, .bytes = 100});
  small.PushToken(Token(1, std::string(200, 'x')));
  EXPECT_EQ(small.Room(), 0);
  Pop(small, &message);
  EXPECT_EQ(small.Room(), 1000);

  // The byte bound is not below what tokens with alternatives take on the wire.
  Outbox heavy({.tokens = 1000, .bytes = 1000});
  TokenEvent token = Token(1, "abc");
  token.top.resize(20, {1 << 20, -1.0F});
  int64_t tokens = 0;
  for (; heavy.Room() > 0; ++tokens) heavy.PushToken(token);
  Pop(heavy, &message);
  EXPECT_LE(message.ByteSizeLong(), 1000u + message.ByteSizeLong() / static_cast<size_t>(tokens));
}

TEST(OutboxTest, ADeltaMayBeBoundedInTokens) {
  Outbox outbox({.message_tokens = 2});
  for (const int32_t id : {1, 2, 3}) outbox.PushToken(Token(id, std::to_string(id)));
  outbox.PushFinished(Finish(FinishReason::kStop));
  v1::GenerateResponse message;
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_THAT(message.delta().token_ids(), ElementsAre(1, 2));
  EXPECT_EQ(message.delta().text(), "12");
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_THAT(message.delta().token_ids(), ElementsAre(3));
  EXPECT_EQ(message.delta().text(), "3");
  EXPECT_EQ(Pop(outbox, &message), Outbox::Next::kLastMessage);
}

TEST(OutboxTest, LargeDeltasAreCutBetweenTokens) {
  constexpr int kTokens = 50;
  Outbox outbox({.tokens = kTokens, .bytes = 1 << 20});
  outbox.CountFrom(100, 7);
  std::string all;
  for (int i = 0; i < kTokens; ++i) {
    TokenEvent token =
        Token(i, std::string(i % 3 == 0 ? 1500 : 10, static_cast<char>('a' + i % 26)));
    for (int j = 0; j < i % 4; ++j) token.top.push_back({100 * i + j, -1.0F});
    all += token.text;
    outbox.PushToken(token);
  }
  FinishEvent finish = Finish(FinishReason::kLength);
  finish.text = "tail";
  outbox.PushFinished(finish);
  std::string text;
  int tokens = 0;
  int messages = 0;
  v1::GenerateResponse message;
  while (Pop(outbox, &message) == Outbox::Next::kMessage) {
    ++messages;
    const v1::Delta& delta = message.delta();
    // Full at 16 KiB, which the last token may go over by itself.
    EXPECT_LT(message.ByteSizeLong(), (16U << 10) + 1600);
    ASSERT_EQ(delta.logprobs_size(), delta.token_ids_size());
    for (int i = 0; i < delta.token_ids_size(); ++i, ++tokens) {
      EXPECT_EQ(delta.token_ids(i), static_cast<uint32_t>(tokens));
      EXPECT_EQ(delta.logprobs(i).chosen().token_id(), static_cast<uint32_t>(tokens));
      ASSERT_EQ(delta.logprobs(i).top_size(), tokens % 4);
      for (int j = 0; j < tokens % 4; ++j) {
        EXPECT_EQ(delta.logprobs(i).top(j).token_id(), static_cast<uint32_t>(100 * tokens + j));
      }
    }
    EXPECT_EQ(delta.position(), 107U + static_cast<uint64_t>(tokens));
    text += delta.text();
  }
  EXPECT_EQ(messages, 2);  // of 27,900 bytes: more than fill one, fewer than fill two
  EXPECT_EQ(tokens, kTokens);
  EXPECT_EQ(text, all + "tail");
  EXPECT_EQ(message.finished().session_position(), 107U + kTokens);
  EXPECT_EQ(outbox.bytes(), 0);
}

// What Protobuf makes of the same tokens.
v1::GenerateResponse DeltaOf(const std::vector<TokenEvent>& tokens) {
  v1::GenerateResponse message;
  v1::Delta& delta = *message.mutable_delta();
  const auto set = [](int32_t id, float logprob, v1::Logprob* to) {
    to->set_token_id(static_cast<uint32_t>(id));
    to->set_logprob(logprob);
  };
  for (const TokenEvent& token : tokens) {
    delta.mutable_text()->append(token.text);
    delta.add_token_ids(static_cast<uint32_t>(token.token));
    v1::TokenLogprobs& logprobs = *delta.add_logprobs();
    set(token.token, token.logprob, logprobs.mutable_chosen());
    for (const TokenLogprob& top : token.top) set(top.token, top.logprob, logprobs.add_top());
  }
  return message;
}

TEST(OutboxTest, MessagesAreByteForByteProtobufs) {
  std::vector<TokenEvent> tokens;
  for (const int32_t id : {0, 1, 127, 128, 16383, 16384, (1 << 21) - 1, 1 << 21, INT32_MAX}) {
    for (const float logprob : {0.0F, -0.0F, -1.5F, -std::numeric_limits<float>::infinity()}) {
      for (const int tops : {0, 1, 20}) {  // the last passes 127 bytes
        TokenEvent& token =
            tokens.emplace_back(Token(id, std::string(static_cast<size_t>(id % 3), 'x')));
        token.logprob = logprob;
        for (int i = 0; i < tops; ++i) token.top.push_back({id / 20 * i, -1.0F * i});
      }
    }
  }
  for (const std::optional<uint64_t> position : {std::optional<uint64_t>(), {0}, {300}}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{10}, tokens.size()}) {
      Outbox outbox({.tokens = 1000, .bytes = 1 << 20});
      if (position) outbox.CountFrom(*position, 0);
      const std::vector<TokenEvent> some(tokens.begin(),
                                         tokens.begin() + static_cast<ptrdiff_t>(count));
      v1::GenerateResponse expected = DeltaOf(some);
      for (const TokenEvent& token : some) outbox.PushToken(token);
      if (count == 0) {
        FinishEvent end = Finish(FinishReason::kStop);
        end.text = std::string(200, 'y');
        outbox.PushFinished(end);
        expected.mutable_delta()->set_text(end.text);
      }
      if (position) expected.mutable_delta()->set_position(*position + count);
      OutboxMessage taken;
      ASSERT_EQ(outbox.Pop(&taken), Outbox::Next::kMessage);
      EXPECT_TRUE(BytesOf(taken.ToWire()) == expected.SerializeAsString()) << count;
    }
  }
}

TEST(OutboxTest, EndsWithHeldTextUsageAndStatus) {
  Outbox outbox({});
  FinishEvent event = Finish(FinishReason::kStop);
  event.text = "tail";
  event.matched_stop = "END";
  outbox.PushFinished(event);
  v1::GenerateResponse message;
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_EQ(message.delta().text(), "tail");
  EXPECT_EQ(message.delta().token_ids_size(), 0);
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kLastMessage);
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
  ASSERT_EQ(Pop(fits, &message), Outbox::Next::kLastMessage);
  EXPECT_EQ(message.ByteSizeLong(), 131U);
  event.hypotheses[0].text += "y";
  Outbox large({.message_bytes = 131});
  large.PushFinished(event);
  ASSERT_EQ(Pop(large, &message), Outbox::Next::kEnd);
  EXPECT_TRUE(absl::IsInvalidArgument(large.status())) << large.status();
  EXPECT_THAT(std::string(large.status().message()),
              ::testing::HasSubstr("limit of 131 (--max-response-bytes)"));
}

TEST(OutboxTest, DrainedIsAFinishedAndAStatus) {
  Outbox outbox({});
  outbox.PushFinished(Finish(FinishReason::kDrained, absl::UnavailableError("bye")));
  v1::GenerateResponse message;
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kMessage);
  EXPECT_EQ(message.finished().reason(), v1::FINISH_REASON_DRAINED);
  ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kEnd);
  EXPECT_EQ(outbox.status().code(), absl::StatusCode::kUnavailable);
}

TEST(OutboxTest, OtherEndsAreAStatusAlone) {
  for (const FinishReason reason : {FinishReason::kCancelled, FinishReason::kDeadline,
                                    FinishReason::kStalled, FinishReason::kError}) {
    Outbox outbox({});
    outbox.PushFinished(Finish(reason, absl::AbortedError("why")));
    v1::GenerateResponse message;
    ASSERT_EQ(Pop(outbox, &message), Outbox::Next::kEnd);
    EXPECT_EQ(outbox.status(), absl::AbortedError("why"));
  }
}

}  // namespace
}  // namespace t2r::server

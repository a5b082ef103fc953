// A session that is saved, written as bytes, read and restored in another engine goes on with the
// same tokens, log probabilities and text as a run that was never cut, on the chosen backend.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "engine/snapshot/snapshot.h"
#include "testing/marian_directory.h"
#include "tests/engine/model/engine_fixture.h"
#include "tests/engine/model/layer_kinds.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r::testing {
namespace {

constexpr int kVocab = 61;

EngineOptions FewSlots() {
  EngineOptions options;
  options.threads = 1;
  options.max_sessions = 3;
  return options;
}

// Letters, parts of code points, and two special tokens.
const FakeTokenizer& Pieces() {
  static const FakeTokenizer tokenizer = [] {
    std::vector<std::string> pieces;
    for (int i = 0; i < kVocab; ++i) pieces.push_back(std::string(1, static_cast<char>('A' + i)));
    const char* const parts[] = {"\xE2", "\x82", "\xAC", "\xC3", "\xA9", "\xF0\x9F", "\x98\x80"};
    for (int i = 0; i < 42; ++i) pieces[i] = parts[i % 7];
    pieces[43] = "";
    pieces[50] = "";
    return FakeTokenizer(std::move(pieces));
  }();
  return tokenizer;
}

struct Outcome {
  FinishEvent finish;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::string text;
};

// One request, alone.
Outcome RunOne(Engine& engine, Request request) {
  Scheduler scheduler(*engine.executor, &Pieces(), nullptr, SchedulerOptions());
  const auto sink = std::make_shared<FakeSink>();
  SubmitOrFail(scheduler, std::move(request), sink);
  Outcome run;
  run.finish = sink->WaitUntilFinished();
  EXPECT_TRUE(run.finish.status.ok()) << run.finish.status;
  run.tokens = sink->tokens();
  for (const TokenEvent& event : sink->events()) run.logprobs.push_back(event.logprob);
  run.text = sink->text();
  return run;
}

// What a turn left, by way of bytes.
std::shared_ptr<const SessionState> Carried(const FinishEvent& finish, const Engine& from,
                                            const Engine& to) {
  EXPECT_NE(finish.state, nullptr);
  if (finish.state == nullptr) return nullptr;
  auto read = ReadSnapshot(WriteSnapshot(*finish.state, from.exactness_class), to.exactness_class,
                           to.executor->limits());
  EXPECT_TRUE(read.ok()) << read.status();
  return read.ok() ? std::make_shared<const SessionState>(*std::move(read)) : nullptr;
}

// The request that goes on from a turn with `prompt`.
Request Next(Request request, std::shared_ptr<const SessionState> from,
             const std::vector<int32_t>& prompt, int64_t max_tokens) {
  request.keep = true;
  request.source.clear();
  request.prompt = {from->last_token};
  request.prompt.insert(request.prompt.end(), prompt.begin(), prompt.end());
  request.from = std::move(from);
  request.max_tokens = max_tokens;
  return request;
}

std::vector<SamplingParams> Samplings() {
  SamplingParams sampled;
  sampled.temperature = 0.9F;
  sampled.top_p = 0.95F;
  sampled.seed = 77;
  SamplingParams penalties = sampled;
  penalties.repetition_penalty = 1.3F;
  penalties.frequency_penalty = 0.4F;
  penalties.presence_penalty = 0.2F;
  penalties.logit_bias = {{3, 1.5F}};
  return {Greedy(), sampled, penalties};
}

void ExpectUnbroken(Engine& engine, Engine& other, const Request& base) {
  constexpr int64_t kBefore = 23;
  constexpr int64_t kAfter = 200;
  for (const SamplingParams& sampling : Samplings()) {
    Request request = base;
    request.sampling = sampling;
    request.ignore_eos = true;
    request.keep = true;
    request.max_tokens = kBefore + kAfter;
    const Outcome whole = RunOne(engine, request);
    ASSERT_EQ(whole.tokens.size(), static_cast<size_t>(kBefore + kAfter));
    request.max_tokens = kBefore;
    const Outcome first = RunOne(engine, request);
    const auto state = Carried(first.finish, engine, other);
    ASSERT_NE(state, nullptr);
    EXPECT_EQ(state->position(), static_cast<int64_t>(base.prompt.size()) + kBefore);
    // Somebody else had the slots, and their pages, meanwhile.
    RunOne(other, base);
    const Outcome second = RunOne(other, Next(request, state, {}, kAfter));
    std::vector<int32_t> tokens = first.tokens;
    tokens.insert(tokens.end(), second.tokens.begin(), second.tokens.end());
    EXPECT_EQ(tokens, whole.tokens);
    std::vector<float> logprobs = first.logprobs;
    logprobs.insert(logprobs.end(), second.logprobs.begin(), second.logprobs.end());
    EXPECT_EQ(logprobs, whole.logprobs);
    EXPECT_EQ(first.text + second.text, whole.text);
    EXPECT_EQ(second.finish.prompt_tokens, 0);
    // All that the session is, not only what was seen of it.
    EXPECT_TRUE(WriteSnapshot(*second.finish.state, "") == WriteSnapshot(*whole.finish.state, ""));
  }
}

void ExpectUnbroken(const ModelSpec& spec) {
  const auto engine = RandomEngine(spec, FewSlots());
  const auto other = RandomEngine(spec, FewSlots());
  ASSERT_TRUE(engine != nullptr && other != nullptr);
  EXPECT_EQ(engine->exactness_class, other->exactness_class);
  Request request;
  request.prompt = SomeIds(37, kVocab);
  request.max_tokens = 70;
  // They begin all the time and never end: text is held back at many a cut.
  request.stop = {"\xC3\xA9 never", "\xE2\x82\xAC never"};
  ExpectUnbroken(*engine, *other, request);
}

class FeatureMapContinuationTest : public ::testing::TestWithParam<const char*> {};

TEST_P(FeatureMapContinuationTest, GoesOnAsIfUnbroken) {
  ExpectUnbroken(LlamaOf(GetParam(), {true, true}));
}

TEST_P(FeatureMapContinuationTest, BehindWindowsToo) {
  ExpectUnbroken(LlamaBehindWindows(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Maps, FeatureMapContinuationTest,
                         ::testing::Values("t2r", "elu", "rfa", "hedgehog", "codebook"),
                         [](const auto& chosen) { return std::string(chosen.param); });

TEST(ContinuationTest, WindowsAlone) { ExpectUnbroken(LlamaOfWindowsAlone()); }

TEST(ContinuationTest, HybridsKeepTheirPages) {
  ExpectUnbroken(LlamaOf("t2r", {true, false, true}));
}

TEST(ContinuationTest, FullModels) { ExpectUnbroken(LlamaOf("t2r", {false, false})); }

TEST(ContinuationTest, Gpt2) {
  for (const bool linear : {true, false}) ExpectUnbroken(Gpt2Of(linear));
}

TEST(ContinuationTest, EncoderDecodersKeepTheirSource) {
  for (const bool linear : {true, false}) {
    MarianSpec spec;
    spec.vocab = kVocab;
    spec.positions = 400;
    spec.linear = {linear, true, linear};
    spec.linear_cross = {linear, false, linear};
    const auto engine = RandomEngine(spec, FewSlots());
    const auto other = RandomEngine(spec, FewSlots());
    ASSERT_TRUE(engine != nullptr && other != nullptr);
    Request request;
    request.prompt = {2};
    request.source = SomeIds(70, spec.source_vocab);
    request.max_tokens = 70;
    ExpectUnbroken(*engine, *other, request);
  }
}

class TurnsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    engine_ = RandomEngine(LlamaOf("t2r", {true, false}), FewSlots());
    ASSERT_NE(engine_, nullptr);
    request_.prompt = SomeIds(9, kVocab);
    request_.sampling = Samplings()[1];
    request_.ignore_eos = true;
    request_.max_tokens = 40;
  }
  // As turns of `size` tokens each until `count` have come or one ends otherwise.
  Outcome InTurns(Request request, int64_t size, int64_t count) {
    request.keep = true;
    request.max_tokens = size;
    Outcome all = RunOne(*engine_, request);
    while (all.finish.reason == FinishReason::kLength &&
           static_cast<int64_t>(all.tokens.size()) < count) {
      const auto state = Carried(all.finish, *engine_, *engine_);
      if (state == nullptr) break;
      const Outcome next = RunOne(*engine_, Next(request, state, {}, size));
      all.tokens.insert(all.tokens.end(), next.tokens.begin(), next.tokens.end());
      all.text += next.text;
      all.finish = next.finish;
    }
    return all;
  }

  std::unique_ptr<Engine> engine_;
  Request request_;
};

// Wherever the cut is, in the middle of a code point too.
TEST_F(TurnsTest, TextIsThatOfOneRun) {
  request_.keep = true;
  const Outcome whole = RunOne(*engine_, request_);
  ASSERT_NE(whole.text.find("\xEF\xBF\xBD"), std::string::npos) << "no broken code point occurs";
  for (const int64_t size : {1, 2, 4, 5, 8, 10, 20}) {
    const Outcome turns = InTurns(request_, size, 40);
    EXPECT_EQ(turns.tokens, whole.tokens);
    EXPECT_EQ(turns.text, whole.text) << size;
  }
}

// A stop string stops at the same token wherever turns end inside it, and nothing of it leaks.
TEST_F(TurnsTest, StopStringsCrossTurns) {
  const Outcome unstopped = RunOne(*engine_, request_);
  const size_t at = unstopped.text.size() / 2;
  size_t begin = at;
  size_t end = at + 9;
  const auto inside = [&](size_t i) { return (unstopped.text[i] & 0xC0) == 0x80; };
  while (inside(begin)) --begin;
  while (inside(end)) ++end;
  for (const bool include : {false, true}) {
    request_.stop = {unstopped.text.substr(begin, end - begin), "unrelated"};
    request_.include_stop = include;
    const Outcome whole = RunOne(*engine_, request_);
    ASSERT_EQ(whole.finish.reason, FinishReason::kStop);
    for (const int64_t size : {1, 2, 3, 5, 7}) {
      const Outcome turns = InTurns(request_, size, 40);
      EXPECT_EQ(turns.finish.reason, FinishReason::kStop);
      EXPECT_EQ(turns.finish.matched_stop, whole.finish.matched_stop);
      EXPECT_EQ(turns.tokens, whole.tokens);
      EXPECT_EQ(turns.text, whole.text) << size;
    }
  }
}

// What is held back is told, and dropped where the next turn does not go on with the same text.
TEST_F(TurnsTest, HeldTextIsToldAndGoesOnOnlyWithTheSameStops) {
  const Outcome unstopped = RunOne(*engine_, request_);
  // All that one turn of ten tokens says begins the stop string.
  request_.max_tokens = 10;
  Request first = request_;
  first.keep = true;
  const std::string begun = RunOne(*engine_, first).text;
  ASSERT_FALSE(begun.empty());
  first.stop = {begun + "!"};
  const Outcome held = RunOne(*engine_, first);
  EXPECT_EQ(held.text, "");
  EXPECT_EQ(held.finish.held_text, begun);
  const auto state = Carried(held.finish, *engine_, *engine_);
  const Outcome same = RunOne(*engine_, Next(first, state, {}, 30));
  EXPECT_EQ(same.text + same.finish.held_text,
            unstopped.text.substr(0, same.text.size() + same.finish.held_text.size()));
  Request other = first;
  other.stop.clear();
  const Outcome without = RunOne(*engine_, Next(other, state, {}, 30));
  EXPECT_EQ(without.tokens, same.tokens);
  EXPECT_EQ(begun + without.text, same.text + same.finish.held_text);
}

// A second prompt is read as if it had stood behind the first turn's tokens.
TEST_F(TurnsTest, APromptGoesOnFromTheSession) {
  request_.sampling = Greedy();
  request_.sampling.repetition_penalty = 1.2F;
  Request first = request_;
  first.keep = true;
  const Outcome one = RunOne(*engine_, first);
  const auto state = Carried(one.finish, *engine_, *engine_);
  for (const int count : {1, 2, 100}) {
    const auto more = SomeIds(count, kVocab, 5);
    const Outcome two = RunOne(*engine_, Next(first, state, more, 30));
    EXPECT_EQ(two.finish.prompt_tokens, count);
    EXPECT_EQ(two.finish.state->position(), 9 + 40 + count + 30);
    Request whole = request_;
    whole.prompt.insert(whole.prompt.end(), one.tokens.begin(), one.tokens.end());
    whole.prompt.insert(whole.prompt.end(), more.begin(), more.end());
    whole.max_tokens = 30;
    whole.keep = true;
    const Outcome expected = RunOne(*engine_, whole);
    EXPECT_EQ(two.tokens, expected.tokens);
    EXPECT_EQ(two.text, expected.text);
  }
}

// The counts of earlier turns are there for a penalty that only a later one asks for.
TEST_F(TurnsTest, TokensOfTurnsWithoutPenaltiesAreCounted) {
  Request first = request_;
  first.keep = true;
  const Outcome one = RunOne(*engine_, first);
  const auto state = Carried(one.finish, *engine_, *engine_);
  std::map<int32_t, int> generated, seen;
  for (const int32_t token : one.tokens) ++generated[token];
  for (const int32_t token : first.prompt) ++seen[token];
  // The last token has not gone through the model.
  for (size_t i = 0; i + 1 < one.tokens.size(); ++i) ++seen[one.tokens[i]];
  size_t different = seen.size();
  for (const auto& [token, count] : generated) different += seen.count(token) == 0 ? 1 : 0;
  EXPECT_EQ(state->slot.history.size(), different);
  for (const TokenAdjustment& entry : state->slot.history) {
    EXPECT_EQ(entry.generated, generated[entry.token]);
    EXPECT_EQ(entry.seen, seen.count(entry.token) > 0);
  }
}

TEST_F(TurnsTest, ATurnThatDoesNotEndAsItShouldLeavesNothing) {
  Scheduler scheduler(*engine_->executor, &Pieces(), nullptr, SchedulerOptions());
  request_.keep = true;
  request_.max_tokens = 400;
  const auto sink = std::make_shared<FakeSink>();
  const RequestId id = SubmitOrFail(scheduler, request_, sink);
  sink->WaitForTokens(3);
  scheduler.Cancel(id);
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(finish.state, nullptr);
}

TEST_F(TurnsTest, WhatNoTurnCanBeIsRefused) {
  Request first = request_;
  first.keep = true;
  const auto state = Carried(RunOne(*engine_, first).finish, *engine_, *engine_);
  Scheduler scheduler(*engine_->executor, &Pieces(), nullptr, SchedulerOptions());
  Request request = Next(first, state, {}, 10);
  EXPECT_TRUE(scheduler.Validate(request).ok());
  request.max_tokens = 512;
  EXPECT_EQ(scheduler.Validate(request).code(), absl::StatusCode::kInvalidArgument);
  request.max_tokens = 512 - 48;
  EXPECT_TRUE(scheduler.Validate(request).ok());
  request.max_tokens = INT64_MAX;
  EXPECT_FALSE(scheduler.Validate(request).ok());
  request = Next(first, state, {}, 10);
  request.prompt[0] = (request.prompt[0] + 1) % kVocab;
  EXPECT_FALSE(scheduler.Validate(request).ok());
  request = Next(first, state, {}, 10);
  request.beams.count = 2;
  request.sampling = Greedy();
  EXPECT_FALSE(scheduler.Validate(request).ok());
}

}  // namespace
}  // namespace t2r::testing

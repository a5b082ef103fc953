// With states of prompts' beginnings a request has the bits that it has without: tokens, log
// probabilities, text, and all that its session is, on the chosen backend.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "engine/snapshot/snapshot.h"
#include "engine/state/kv_cache.h"
#include "testing/marian_directory.h"
#include "tests/engine/model/engine_fixture.h"
#include "tests/engine/model/layer_kinds.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r::testing {
namespace {

constexpr int kVocab = 61;

EngineOptions Options(int64_t prefix_bytes) {
  EngineOptions options;
  options.threads = 1;
  options.max_sessions = 3;
  options.prefix_cache_bytes = prefix_bytes;
  return options;
}

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::string text;
  std::string session;  // as a snapshot
  int64_t cached = 0;

  static Outcome Of(FakeSink& sink) {
    Outcome outcome;
    const FinishEvent finish = sink.WaitUntilFinished();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
    outcome.tokens = sink.tokens();
    for (const TokenEvent& event : sink.events()) outcome.logprobs.push_back(event.logprob);
    outcome.text = sink.text();
    if (finish.state != nullptr) outcome.session = WriteSnapshot(*finish.state, "");
    outcome.cached = finish.cached_prompt_tokens;
    return outcome;
  }
};

void ExpectSame(const Outcome& got, const Outcome& want, size_t i) {
  EXPECT_EQ(got.tokens, want.tokens) << i;
  EXPECT_EQ(got.logprobs, want.logprobs) << i;
  EXPECT_EQ(got.text, want.text) << i;
  EXPECT_TRUE(got.session == want.session) << i;
}

const FakeTokenizer& Letters() {
  static const FakeTokenizer tokenizer = [] {
    std::vector<std::string> pieces;
    for (int i = 0; i < kVocab; ++i) pieces.push_back(std::string(1, static_cast<char>('A' + i)));
    // Halves of a code point: where a prompt ends matters to the text.
    for (int i = 0; i < 40; ++i) pieces[i] = i % 2 == 0 ? "\xC3" : "\xA9";
    return FakeTokenizer(std::move(pieces));
  }();
  return tokenizer;
}

// Two beginnings, prompts that go on from them, one that is sent twice, one inside another; greedy,
// sampled, with penalties that count the prompt; kept sessions and others.
std::vector<Request> Requests() {
  SamplingParams sampled;
  sampled.temperature = 0.9F;
  sampled.seed = 77;
  SamplingParams penalties = sampled;
  penalties.repetition_penalty = 1.4F;
  penalties.frequency_penalty = 0.3F;
  penalties.logit_bias = {{3, 1.5F}};
  const SamplingParams samplings[] = {Greedy(), sampled, penalties};
  std::vector<Request> requests;
  const auto add = [&](int beginning, int length, int tail) {
    Request request;
    request.prompt = SomeIds(length, kVocab, beginning);
    const auto more = SomeIds(tail, kVocab, 100 + static_cast<int>(requests.size()));
    request.prompt.insert(request.prompt.end(), more.begin(), more.end());
    request.sampling = samplings[requests.size() % 3];
    request.keep = requests.size() % 2 == 1;
    request.max_tokens = 12;
    request.ignore_eos = true;
    requests.push_back(std::move(request));
  };
  add(1, 150, 30);
  add(1, 150, 41);
  add(1, 150, 20);
  add(2, 90, 0);
  add(2, 90, 0);
  add(2, 90, 0);
  add(2, 90, 100);
  add(1, 150, 90);
  add(1, 140, 60);
  add(1, 130, 5);
  add(2, 90, 140);
  return requests;
}

std::vector<Outcome> RunAll(Engine& engine, const std::vector<Request>& requests, bool together) {
  SchedulerOptions options;
  options.max_prompt_chunk = 32;
  Scheduler scheduler(*engine.executor, &Letters(), nullptr, options);
  std::vector<std::shared_ptr<FakeSink>> sinks;
  std::vector<Outcome> outcomes;
  for (const Request& request : requests) {
    sinks.push_back(std::make_shared<FakeSink>());
    SubmitOrFail(scheduler, request, sinks.back());
    if (!together) sinks.back()->WaitUntilFinished();
  }
  for (const auto& sink : sinks) outcomes.push_back(Outcome::Of(*sink));
  return outcomes;
}

void ExpectSameBits(const ModelSpec& spec) {
  const auto without = RandomEngine(spec, Options(0));
  const auto with = RandomEngine(spec, Options(int64_t{1} << 22));
  ASSERT_TRUE(without != nullptr && with != nullptr);
  ASSERT_EQ(without->executor->limits().prefix_states, 0);
  ASSERT_GT(with->executor->limits().prefix_states, 3);
  const std::vector<Request> requests = Requests();
  const std::vector<Outcome> want = RunAll(*without, requests, false);
  const std::vector<Outcome> alone = RunAll(*with, requests, false);
  const std::vector<Outcome> together = RunAll(*with, requests, true);
  int64_t hits = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    ExpectSame(alone[i], want[i], i);
    ExpectSame(together[i], want[i], i);
    EXPECT_EQ(want[i].cached, 0);
    hits += alone[i].cached > 0 ? 1 : 0;
  }
  // All but the first of each beginning.
  EXPECT_EQ(hits, static_cast<int64_t>(requests.size()) - 2);
  EXPECT_EQ(with->executor->prefix_bytes(), 0) << "dropped with the scheduler";
}

class FeatureMapPrefixTest : public ::testing::TestWithParam<const char*> {};

TEST_P(FeatureMapPrefixTest, SameBits) { ExpectSameBits(LlamaOf(GetParam(), {true, true})); }

TEST_P(FeatureMapPrefixTest, BehindWindowsToo) { ExpectSameBits(LlamaBehindWindows(GetParam())); }

INSTANTIATE_TEST_SUITE_P(Maps, FeatureMapPrefixTest,
                         ::testing::Values("t2r", "elu", "rfa", "hedgehog", "codebook"),
                         [](const auto& chosen) { return std::string(chosen.param); });

TEST(PrefixBitsTest, WindowsAlone) { ExpectSameBits(LlamaOfWindowsAlone()); }

TEST(PrefixBitsTest, Hybrids) { ExpectSameBits(LlamaOf("t2r", {true, false, true})); }

TEST(PrefixBitsTest, FullModels) { ExpectSameBits(LlamaOf("t2r", {false, false})); }

TEST(PrefixBitsTest, Gpt2) {
  for (const bool linear : {true, false}) ExpectSameBits(Gpt2Of(linear));
}

// A target's beginning says nothing without its source.
TEST(PrefixBitsTest, EncoderDecodersKeepNone) {
  MarianSpec spec;
  const auto engine = RandomEngine(spec, Options(int64_t{1} << 22));
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->executor->limits().prefix_states, 0);
  EXPECT_EQ(engine->memory.prefix_bytes(), 0);
}

// Sessions have all the pages that they would have without, and what is kept stays within its own.
TEST(PrefixBitsTest, KeptPagesTakeNothingFromSessions) {
  ModelSpec spec = LlamaOf("t2r", {false, false});
  const int64_t page = KvShape{2, spec.groups, spec.head_dim}.page_bytes();
  EngineOptions options = Options(4 * page);
  options.kv_cache_bytes = 6 * page;
  const auto engine = RandomEngine(spec, options);
  options.prefix_cache_bytes = 0;
  const auto without = RandomEngine(spec, options);
  ASSERT_TRUE(engine != nullptr && without != nullptr);
  EXPECT_EQ(engine->executor->limits().kv_pages, 6);
  EXPECT_EQ(engine->memory.prefix_bytes(), 4 * page);
  std::vector<Request> requests = Requests();
  for (int i = 0; i < 6; ++i) {
    Request request = requests[static_cast<size_t>(i)];
    request.prompt = SomeIds(300, kVocab, 50 + i);  // more than all kept pages hold
    requests.push_back(std::move(request));
  }
  const std::vector<Outcome> want = RunAll(*without, requests, true);
  const std::vector<Outcome> got = RunAll(*engine, requests, true);
  for (size_t i = 0; i < requests.size(); ++i) ExpectSame(got[i], want[i], i);
  EXPECT_TRUE(engine->executor->CanOpen({6 * kKvPageSize}, 1));
}

}  // namespace
}  // namespace t2r::testing

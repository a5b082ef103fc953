// Encoder-decoders through the executor: sources side by side, splits, forks, what is reserved.
// Their values are compared with a float64 reference in tests/suites.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <random>

#include "engine/executor/model_executor.h"
#include "testing/marian_directory.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

constexpr int kStart = 1;
using Distribution = std::vector<uint32_t>;  // bits of the log probability of every token

Distribution BitsOf(const std::vector<TokenLogprob>& top, int vocab) {
  Distribution bits(vocab);
  for (const TokenLogprob& entry : top) bits[entry.token] = std::bit_cast<uint32_t>(entry.logprob);
  return bits;
}

struct Sentence {
  std::vector<int32_t> source;
  std::vector<int32_t> target;  // the start token first
};

Sentence SomeSentence(int source, int target, const Executor& executor, int salt) {
  Sentence sentence = {SomeIds(source, executor.limits().source_vocab_size, salt),
                       SomeIds(target, executor.limits().vocab_size, salt + 1)};
  sentence.target.front() = kStart;
  return sentence;
}

ScheduledChunk FirstChunk(int slot, const Sentence& sentence, size_t count) {
  ScheduledChunk chunk = MakeChunk(slot, std::span(sentence.target).subspan(0, count), 0, true);
  chunk.source = sentence.source;
  return chunk;
}

SessionSize SizeOf(const Sentence& sentence) {
  return {static_cast<int64_t>(sentence.target.size()),
          static_cast<int64_t>(sentence.source.size())};
}

// The distribution after each target token, the target fed alone in pieces of `size`; empty within
// pieces.
std::vector<Distribution> Alone(Executor& executor, const Sentence& sentence, size_t size) {
  const int vocab = executor.limits().vocab_size;
  const int slot = executor.Open(SizeOf(sentence), Greedy());
  EXPECT_GE(slot, 0);
  std::vector<Distribution> found(sentence.target.size());
  std::vector<ChunkResult> results;
  for (size_t first = 0; first < sentence.target.size(); first += size) {
    const size_t count = std::min(size, sentence.target.size() - first);
    ScheduledChunk chunk = MakeChunk(slot, std::span(sentence.target).subspan(first, count),
                                     static_cast<int64_t>(first), true);
    if (first == 0) chunk.source = sentence.source;
    chunk.top_logprobs = vocab;
    executor.Step({&chunk, 1}, &results);
    found[first + count - 1] = BitsOf(results[0].top, vocab);
  }
  executor.Close(slot);
  return found;
}

std::vector<int32_t> Translate(Executor& executor, const std::vector<int32_t>& source, int count,
                               const SamplingParams& params = Greedy()) {
  const int slot = executor.Open({count, static_cast<int64_t>(source.size())}, params);
  EXPECT_GE(slot, 0);
  std::vector<int32_t> next = {kStart};
  std::vector<int32_t> generated;
  std::vector<ChunkResult> results;
  for (int i = 0; i < count; ++i) {
    ScheduledChunk chunk = MakeChunk(slot, next, i, true);
    if (i == 0) chunk.source = source;
    executor.Step({&chunk, 1}, &results);
    generated.push_back(results[0].sampled.token);
    next = {generated.back()};
  }
  executor.Close(slot);
  return generated;
}

MarianSpec SpecOf(const std::string& name) {
  MarianSpec spec;
  if (name == "softmax") return spec;
  spec.linear = {true, false, true};
  spec.linear_cross = {false, true, true};
  if (name == "before") {
    spec.before = spec.final_norm = true;
    spec.stored = false;
  }
  if (name == "elu") {
    spec.map = "elu";
    spec.features = spec.head_dim();
  }
  if (name == "rfa") {
    spec.map = "rfa";
    spec.features = 32;
    spec.normalizer = "add";
  }
  if (name == "hedgehog") {
    spec.map = "hedgehog";
    spec.share = true;
  }
  return spec;
}

EngineOptions Small() {
  EngineOptions options;
  options.threads = 2;
  options.max_sessions = 20;
  return options;
}

class MarianTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    EngineOptions options = Small();
    const std::string name = GetParam();
    if (name == "bfloat16") options.dtype = "bfloat16";
    engine_ = RandomEngine(SpecOf(name), options);
    ASSERT_NE(engine_, nullptr);
    EXPECT_THAT(engine_->warnings, ::testing::IsEmpty());
  }

  Executor& executor() { return *engine_->executor; }

  std::unique_ptr<Engine> engine_;
};

TEST_P(MarianTest, TheSourceMatters) {
  const auto one = Alone(executor(), SomeSentence(9, 5, executor(), 0), 5);
  Sentence other = SomeSentence(9, 5, executor(), 0);
  std::reverse(other.source.begin(), other.source.end());
  EXPECT_NE(Alone(executor(), other, 5).back(), one.back());
  other = SomeSentence(9, 5, executor(), 0);
  other.source.pop_back();
  EXPECT_NE(Alone(executor(), other, 5).back(), one.back());
}

TEST_P(MarianTest, AnySplitOfTheTargetGivesTheSameBits) {
  const Sentence sentence = SomeSentence(70, 67, executor(), 3);
  const auto expected = Alone(executor(), sentence, 1);
  for (const size_t size : {2, 7, 33, 67}) {
    const auto found = Alone(executor(), sentence, size);
    for (size_t i = 0; i < found.size(); ++i) {
      if (found[i].empty()) continue;
      EXPECT_EQ(found[i], expected[i]) << size << ", position " << i;
    }
  }
}

// Sources of all lengths are encoded in one step, in several batches; then the sessions go on side
// by side, some a token, some more.
TEST_P(MarianTest, NeighboursDoNotChangeBits) {
  const int vocab = executor().limits().vocab_size;
  const int lengths[] = {1, 160, 64, 2, 65, 129, 17, 128, 3, 63, 1, 40};
  std::vector<Sentence> sentences;
  std::vector<std::vector<Distribution>> expected;
  for (size_t i = 0; i < std::size(lengths); ++i) {
    const int salt = static_cast<int>(i);
    sentences.push_back(SomeSentence(lengths[i], 6 + salt, executor(), salt));
    expected.push_back(Alone(executor(), sentences.back(), 1));
  }
  std::vector<int> slots;
  std::vector<ScheduledChunk> chunks;
  for (const Sentence& sentence : sentences) {
    slots.push_back(executor().Open(SizeOf(sentence), Greedy()));
    chunks.push_back(FirstChunk(slots.back(), sentence, 1));
    chunks.back().top_logprobs = vocab;
  }
  std::vector<ChunkResult> results;
  executor().Step(chunks, &results);
  std::vector<size_t> done(sentences.size(), 1);
  for (size_t i = 0; i < sentences.size(); ++i) {
    EXPECT_EQ(BitsOf(results[i].top, vocab), expected[i][0]) << "source of " << lengths[i];
  }
  std::mt19937 random(5);
  for (int step = 0; step < 60; ++step) {
    chunks.clear();
    std::vector<size_t> sessions;
    for (size_t i = 0; i < sentences.size(); ++i) {
      const size_t left = sentences[i].target.size() - done[i];
      if (left == 0 || random() % 3 == 0) continue;
      const size_t count = std::min<size_t>(left, random() % 4 == 0 ? 3 : 1);
      chunks.push_back(MakeChunk(slots[i], std::span(sentences[i].target).subspan(done[i], count),
                                 static_cast<int64_t>(done[i]), true));
      chunks.back().top_logprobs = vocab;
      sessions.push_back(i);
      done[i] += count;
    }
    if (chunks.empty()) continue;
    executor().Step(chunks, &results);
    for (size_t w = 0; w < chunks.size(); ++w) {
      const size_t i = sessions[w];
      EXPECT_EQ(BitsOf(results[w].top, vocab), expected[i][done[i] - 1]) << "session " << i;
    }
  }
  for (size_t i = 0; i < sentences.size(); ++i) {
    EXPECT_EQ(done[i], sentences[i].target.size());
    executor().Close(slots[i]);
  }
}

TEST_P(MarianTest, AForkGoesOnFromTheSameBits) {
  const Sentence sentence = SomeSentence(70, 66, executor(), 8);
  const int from = executor().Open({80, 70}, Greedy());
  const int to = executor().Open({80, 70}, Greedy());
  std::vector<ChunkResult> results;
  // What `to` read before does not matter.
  const Sentence other = SomeSentence(60, 4, executor(), 2);
  const ScheduledChunk chunks[] = {FirstChunk(from, sentence, 66), FirstChunk(to, other, 4)};
  executor().Step(chunks, &results);
  executor().Fork(from, to);
  int32_t token = results[0].sampled.token;
  for (int64_t position = 66; position < 80; ++position) {
    const ScheduledChunk both[] = {MakeChunk(from, {&token, 1}, position, true),
                                   MakeChunk(to, {&token, 1}, position, true)};
    executor().Step(both, &results);
    EXPECT_EQ(results[0].sampled.token, results[1].sampled.token) << position;
    EXPECT_EQ(results[0].sampled.logprob, results[1].sampled.logprob) << position;
    token = results[0].sampled.token;
  }
  executor().Close(from);
  executor().Close(to);
}

TEST_P(MarianTest, AClosedSlotStartsFromNothing) {
  EngineOptions options = Small();
  options.max_sessions = 1;
  const auto engine = RandomEngine(SpecOf(GetParam()), options);
  const auto source = SomeIds(9, engine->executor->limits().source_vocab_size);
  const auto first = Translate(*engine->executor, source, 10);
  Translate(*engine->executor, SomeIds(130, engine->executor->limits().source_vocab_size, 4), 20);
  EXPECT_EQ(Translate(*engine->executor, source, 10), first);
}

INSTANTIATE_TEST_SUITE_P(Everything, MarianTest,
                         ::testing::Values("softmax", "t2r", "before", "elu", "rfa", "hedgehog",
                                           "bfloat16"),
                         [](const auto& test) { return test.param; });

TEST(MarianLimitsTest, FollowTheModel) {
  const auto softmax = RandomEngine(SpecOf("softmax"), Small());
  ExecutorLimits limits = softmax->executor->limits();
  EXPECT_EQ(limits.vocab_size, 41);
  EXPECT_EQ(limits.source_vocab_size, 53);
  EXPECT_EQ(limits.max_source, 160);
  EXPECT_EQ(limits.position_limit, 160);
  EXPECT_EQ(limits.state_bytes, 0);
  const auto mixed = RandomEngine(SpecOf("t2r"), Small());
  limits = mixed->executor->limits();
  // Two causal layers and two of cross attention, 4 heads, k 6, d 8.
  EXPECT_EQ(limits.state_bytes, 4 * 4 * 6 * 9 * 4);
  // One full causal layer.
  EXPECT_EQ(limits.kv_bytes_per_position, 2 * 4 * 8 * 4);
}

TEST(MarianLimitsTest, AStepHoldsTheLongestSource) {
  MarianSpec spec;
  spec.positions = 600;
  EngineOptions options = Small();
  options.max_step_tokens = 32;
  const auto engine = RandomEngine(spec, options);
  EXPECT_EQ(engine->executor->limits().max_source, 600);
  EXPECT_EQ(engine->executor->limits().max_step_tokens, 600);
  const Sentence longest = SomeSentence(600, 2, *engine->executor, 1);
  EXPECT_EQ(Alone(*engine->executor, longest, 2).back().size(), 41U);
}

// Pages for a source are reserved when a session opens, and given back when it closes.
TEST(MarianLimitsTest, SourcesOfFullCrossAttentionAreBoundedByAdmission) {
  MarianSpec spec;
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, RandomWeights(spec, 17));
  auto config = LoadModelConfig(directory.path());
  std::shared_ptr<SafetensorsDirectory> files = *SafetensorsDirectory::Open(directory.path());
  auto backend = MakeBackend({"cpu", 2});
  auto model = MakeModel(*config, *files, *backend, {DType::kFloat32});
  ExecutorOptions options;
  options.slots = 4;
  options.max_step_tokens = 160;
  options.max_step_logit_rows = 8;
  options.kv_pages = 12;
  options.source_kv_pages = 2;
  ModelExecutor executor(std::move(backend), std::move(model), options);
  EXPECT_EQ(executor.limits().max_source, 128);
  EXPECT_FALSE(executor.CanOpen({8, 129}, 1));
  const int one = executor.Open({8, 64}, Greedy());
  EXPECT_GE(one, 0);
  EXPECT_FALSE(executor.CanOpen({8, 65}, 1));
  const int two = executor.Open({8, 1}, Greedy());
  EXPECT_GE(two, 0);
  EXPECT_FALSE(executor.CanOpen({8, 1}, 1));
  executor.Close(one);
  executor.Close(two);
  EXPECT_TRUE(executor.CanOpen({8, 128}, 1));
}

TEST(MarianLimitsTest, SuppressedTokensAreNeverSampled) {
  MarianSpec spec;
  auto engine = RandomEngine(spec, Small());
  const auto source = SomeIds(9, spec.source_vocab);
  const std::vector<int32_t> plain = Translate(*engine->executor, source, 12);
  const int32_t other = (plain[0] + 1) % spec.vocab;
  spec.suppressed = {plain[0], other};
  engine = RandomEngine(spec, Small());
  EXPECT_THAT(engine->executor->limits().suppressed_token_ids, ElementsAre(plain[0], other));
  for (const float temperature : {0.0F, 5.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    params.logit_bias = {{other, 100.0F}};  // a request cannot bring them back
    const auto found = Translate(*engine->executor, source, 150, params);
    EXPECT_THAT(found, Not(Contains(plain[0])));
    EXPECT_THAT(found, Not(Contains(other)));
  }
}

TEST(MarianLoadTest, MissingAndMisshapenTensorsAreNamed) {
  MarianSpec spec = SpecOf("before");
  spec.encoder_layers = 1;
  spec.decoder_layers = 2;
  spec.linear = spec.linear_cross = {true, false};
  spec.learned = true;
  spec.tied = false;
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  const Tensors whole = RandomWeights(spec, 1);
  for (const auto& [name, tensor] : whole) {
    Tensors part = whole;
    if (name != "final_logits_bias") {  // which may be absent
      part.erase(name);
      WriteWeights(directory, part);
      const auto engine = LoadEngine(directory.path(), Small());
      EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument) << name;
      EXPECT_THAT(std::string(engine.status().message()), ::testing::HasSubstr(name));
    }
    part = whole;
    part[name].shape.push_back(1);
    WriteWeights(directory, part);
    const auto engine = LoadEngine(directory.path(), Small());
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(engine.status().message()), ::testing::HasSubstr(name));
  }
}

TEST(MarianLoadTest, ASharedTableHasOneOfThreeNames) {
  MarianSpec spec;
  spec.share = true;
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  std::vector<int32_t> expected;
  for (const char* name : {"model.shared.weight", "model.encoder.embed_tokens.weight",
                           "model.decoder.embed_tokens.weight"}) {
    Tensors weights = RandomWeights(spec, 3);
    NamedTensor table = weights.extract("model.shared.weight").mapped();
    weights[name] = std::move(table);
    WriteWeights(directory, weights);
    const auto engine = LoadEngine(directory.path(), Small());
    ASSERT_TRUE(engine.ok()) << engine.status();
    const auto found = Translate(*(*engine)->executor, SomeIds(7, spec.source_vocab), 8);
    if (expected.empty()) expected = found;
    EXPECT_EQ(found, expected) << name;
  }
}

}  // namespace
}  // namespace t2r::testing

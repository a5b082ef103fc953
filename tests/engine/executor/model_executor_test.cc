#include "engine/executor/model_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

EngineOptions Small() {
  EngineOptions options;
  options.threads = 2;
  options.max_sessions = 4;
  return options;
}

ModelSpec LinearSpec() {
  ModelSpec spec;
  spec.linear = {true, true, true};
  return spec;
}

TEST(ModelExecutorTest, LimitsFollowTheModel) {
  const auto linear = RandomEngine(LinearSpec(), Small());
  EXPECT_EQ(linear->executor->limits().slots, 4);
  EXPECT_EQ(linear->executor->limits().vocab_size, 61);
  EXPECT_EQ(linear->executor->limits().position_limit, 0);
  EXPECT_EQ(linear->executor->limits().kv_pages, 0);
  EXPECT_EQ(linear->executor->limits().kv_bytes_per_position, 0);
  // Layers · G · k · (d + 1) · 4.
  EXPECT_EQ(linear->executor->limits().state_bytes, 3 * 2 * 16 * 9 * 4);

  ModelSpec full;
  const auto engine = RandomEngine(full, Small());
  EXPECT_EQ(engine->executor->limits().position_limit, 256);
  EXPECT_EQ(engine->executor->limits().state_bytes, 0);
  EXPECT_EQ(engine->executor->limits().kv_pages, 4 * 256 / kKvPageSize);
  EXPECT_EQ(engine->executor->limits().kv_bytes_per_position, 3 * 2 * 2 * 8 * 4);
  if (ChosenBackend() != "cpu") return;  // a device keeps them as its activations
  EngineOptions halved = Small();
  halved.kv_dtype = "bfloat16";
  EXPECT_EQ(RandomEngine(full, halved)->executor->limits().kv_bytes_per_position,
            3 * 2 * 2 * 8 * 2);
}

TEST(ModelExecutorTest, OpensAsManySessionsAsThereAreSlots) {
  const auto engine = RandomEngine(LinearSpec(), Small());
  Executor& executor = *engine->executor;
  std::vector<int> slots;
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(executor.CanOpen({int64_t{1} << 40}, 4 - i));
    EXPECT_FALSE(executor.CanOpen({int64_t{1} << 40}, 5 - i));
    slots.push_back(executor.Open({int64_t{1} << 40}, Greedy()));
    EXPECT_GE(slots.back(), 0);
  }
  EXPECT_FALSE(executor.CanOpen({1}, 1));
  EXPECT_EQ(executor.Open({1}, Greedy()), -1);
  executor.Close(slots[2]);
  EXPECT_EQ(executor.Open({1}, Greedy()), slots[2]);
}

TEST(ModelExecutorTest, FullLayersReserveEveryPageAtOpening) {
  EngineOptions options = Small();
  ModelSpec spec;
  spec.layers = 1;
  options.kv_cache_bytes = 3 * KvShape{1, spec.groups, spec.head_dim}.page_bytes();
  const auto engine = RandomEngine(spec, options);
  Executor& executor = *engine->executor;
  EXPECT_EQ(executor.limits().kv_pages, 3);
  EXPECT_FALSE(executor.CanOpen({257}, 1));  // beyond the model's positions
  EXPECT_FALSE(executor.CanOpen({193}, 1));  // four pages
  const int two = executor.Open({65}, Greedy());
  EXPECT_GE(two, 0);
  EXPECT_FALSE(executor.CanOpen({65}, 1));
  const int one = executor.Open({64}, Greedy());
  EXPECT_GE(one, 0);
  EXPECT_FALSE(executor.CanOpen({1}, 1));
  executor.Close(two);
  EXPECT_TRUE(executor.CanOpen({128}, 1));
  EXPECT_TRUE(executor.CanOpen({64}, 2));
  EXPECT_FALSE(executor.CanOpen({64}, 3));
  EXPECT_FALSE(executor.CanOpen({65}, 2));
}

TEST(ModelExecutorTest, AClosedSlotStartsFromNothing) {
  for (const bool linear : {true, false}) {
    ModelSpec spec;
    if (linear) spec = LinearSpec();
    EngineOptions options = Small();
    options.max_sessions = 1;
    const auto engine = RandomEngine(spec, options);
    const auto first = Generate(*engine->executor, SomeIds(9, 61), 12, Greedy());
    Generate(*engine->executor, SomeIds(70, 61, 5), 12, Greedy());
    EXPECT_EQ(Generate(*engine->executor, SomeIds(9, 61), 12, Greedy()), first);
  }
}

TEST(ModelExecutorTest, ScoresAreTheLogProbabilitiesOfTheTargets) {
  const auto engine = RandomEngine(LinearSpec(), Small());
  Executor& executor = *engine->executor;
  const auto ids = SomeIds(20, 61);
  const int slot = executor.Open({20}, Greedy());
  ScheduledChunk chunk = MakeChunk(slot, ids, 0, true);
  chunk.targets = std::span(ids).subspan(1);
  chunk.top_logprobs = 61;
  std::vector<ChunkResult> results;
  executor.Step({&chunk, 1}, &results);
  EXPECT_THAT(results[0].scores, SizeIs(19));
  ASSERT_THAT(results[0].top, SizeIs(61));
  EXPECT_EQ(results[0].top[0].token, results[0].sampled.token);
  EXPECT_EQ(results[0].top[0].logprob, results[0].sampled.logprob);
  double total = 0;
  for (const TokenLogprob& entry : results[0].top) total += std::exp(entry.logprob);
  EXPECT_NEAR(total, 1.0, 1e-5);
}

// A fork goes on as its origin would have, penalties included, and neither disturbs the other.
TEST(ModelExecutorTest, AForkGoesOnFromTheSameBits) {
  for (const bool linear : {true, false}) {
    ModelSpec spec;
    if (linear) spec = LinearSpec();
    EngineOptions options = Small();
    options.max_sessions = 3;
    const auto engine = RandomEngine(spec, options);
    Executor& executor = *engine->executor;
    SamplingParams params = Greedy();
    params.repetition_penalty = 1.3F;
    params.frequency_penalty = 0.4F;
    const auto prompt = SomeIds(70, 61);
    constexpr int kTokens = 12;
    const int from = executor.Open({90}, params);
    const int to = executor.Open({90}, params);
    std::vector<ChunkResult> results;
    const auto step = [&](std::span<const ScheduledChunk> chunks) {
      executor.Step(chunks, &results);
    };
    // What `to` did before does not matter.
    const auto other = SomeIds(5, 61, 3);
    const ScheduledChunk before[] = {MakeChunk(to, other, 0)};
    step(before);
    int64_t position = 0;
    while (position < 70) {
      const auto count = std::min<int64_t>(20, 70 - position);
      const ScheduledChunk chunk = MakeChunk(from, std::span(prompt).subspan(position, count),
                                             position, position + count == 70);
      step({&chunk, 1});
      position += count;
    }
    std::vector<int32_t> origin = {results[0].sampled.token};
    executor.Fork(from, to);
    std::vector<int32_t> fork = origin;
    for (int i = 1; i < kTokens; ++i, ++position) {
      const int32_t tokens[] = {origin.back(), fork.back()};
      const ScheduledChunk chunks[] = {MakeChunk(from, {&tokens[0], 1}, position, true),
                                       MakeChunk(to, {&tokens[1], 1}, position, true)};
      step(chunks);
      origin.push_back(results[0].sampled.token);
      fork.push_back(results[1].sampled.token);
      EXPECT_EQ(results[0].sampled.logprob, results[1].sampled.logprob);
    }
    EXPECT_EQ(fork, origin);
    executor.Close(from);
    executor.Close(to);
    EXPECT_EQ(Generate(executor, prompt, kTokens, params), origin);
  }
}

// A step that wants more logits than the workspace holds runs in parts, with the same results.
TEST(ModelExecutorTest, MoreOutputsThanTheWorkspaceHolds) {
  for (const bool linear : {true, false}) {
    ModelSpec spec;
    if (linear) spec = LinearSpec();
    TemporaryDirectory directory;
    directory.Write("config.json", ConfigOf(spec));
    WriteWeights(directory, RandomWeights(spec, 17));
    std::vector<std::vector<ChunkResult>> found;
    for (const int64_t logit_rows : {64, 5, 1}) {
      auto config = LoadModelConfig(directory.path());
      std::shared_ptr<SafetensorsDirectory> files = *SafetensorsDirectory::Open(directory.path());
      auto backend = MakeBackend({ChosenBackend(), 2});
      auto model = MakeModel(*config, *files, *backend, {DType::kFloat32});
      ModelExecutor executor(std::move(backend), std::move(model), {3, 64, logit_rows, 256, 12});
      const auto a = SomeIds(20, 61);
      const auto b = SomeIds(13, 61, 4);
      const auto c = SomeIds(9, 61, 8);
      std::vector<ScheduledChunk> chunks = {MakeChunk(executor.Open({21}, Greedy()), a, 0, true),
                                            MakeChunk(executor.Open({14}, Greedy()), b, 0, true),
                                            MakeChunk(executor.Open({10}, Greedy()), c, 0, false)};
      chunks[0].targets = std::span(a).subspan(1);
      chunks[2].targets = c;
      chunks[0].top_logprobs = 61;
      chunks[1].top_logprobs = 61;
      found.emplace_back();
      executor.Step(chunks, &found.back());
    }
    for (size_t i = 1; i < found.size(); ++i) {
      for (size_t w = 0; w < 3; ++w) {
        EXPECT_EQ(found[i][w].scores, found[0][w].scores);
        ASSERT_EQ(found[i][w].top.size(), found[0][w].top.size());
        for (size_t j = 0; j < found[0][w].top.size(); ++j) {
          EXPECT_EQ(found[i][w].top[j].token, found[0][w].top[j].token);
          EXPECT_EQ(found[i][w].top[j].logprob, found[0][w].top[j].logprob);
        }
      }
    }
  }
}

// The draw depends on seed, sequence and position only: not on neighbours or on chunking.
TEST(ModelExecutorTest, SampledTokensDoNotDependOnNeighboursOrChunks) {
  const auto engine = RandomEngine(LinearSpec(), Small());
  Executor& executor = *engine->executor;
  SamplingParams params;
  params.seed = 1234;
  const auto prompt = SomeIds(10, 61);
  const auto alone = Generate(executor, prompt, 16, params);
  params.seed = 1235;
  EXPECT_NE(Generate(executor, prompt, 16, params), alone);
  params.seed = 1234;

  const int slot = executor.Open({30}, params);
  const int other = executor.Open({100}, params);
  const std::vector<int32_t> noise = SomeIds(3, 61, 9);
  std::vector<ChunkResult> results;
  ScheduledChunk chunk = MakeChunk(slot, std::span(prompt).subspan(0, 7), 0);
  executor.Step({&chunk, 1}, &results);
  std::vector<int32_t> generated;
  std::vector<int32_t> next(prompt.begin() + 7, prompt.end());
  int64_t position = 7;
  for (int64_t i = 0; i < 16; ++i) {
    const std::vector<ScheduledChunk> chunks = {MakeChunk(other, noise, i * 3, true),
                                                MakeChunk(slot, next, position, true)};
    executor.Step(chunks, &results);
    position += static_cast<int64_t>(next.size());
    generated.push_back(results[1].sampled.token);
    next = {generated.back()};
  }
  EXPECT_EQ(generated, alone);
}

TEST(ModelExecutorTest, PenaltiesCountWhatTheyShould) {
  const auto engine = RandomEngine(LinearSpec(), Small());
  Executor& executor = *engine->executor;
  const std::vector<int32_t> prompt = {5, 6, 7};
  // A large frequency penalty forbids what was generated, never the prompt.
  SamplingParams params = Greedy();
  params.frequency_penalty = 1e4F;
  auto all = Generate(executor, prompt, 61, params);
  std::sort(all.begin(), all.end());
  std::vector<int32_t> every(61);
  std::iota(every.begin(), every.end(), 0);
  EXPECT_EQ(all, every);
  // A presence penalty does the same for as long as there are tokens left.
  params = Greedy();
  params.presence_penalty = 1e4F;
  all = Generate(executor, prompt, 61, params);
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, every);
  // The repetition penalty counts the prompt too: a bias makes logits of the prompt's ids large,
  // the penalty divides them by more.
  params = Greedy();
  params.logit_bias = {{5, 100.0F}, {6, 100.0F}, {7, 100.0F}};
  EXPECT_THAT(Generate(executor, prompt, 1, params), ElementsAre(::testing::AnyOf(5, 6, 7)));
  params.repetition_penalty = 1e6F;
  EXPECT_THAT(Generate(executor, prompt, 1, params),
              ElementsAre(::testing::Not(::testing::AnyOf(5, 6, 7))));
}

}  // namespace
}  // namespace t2r::testing

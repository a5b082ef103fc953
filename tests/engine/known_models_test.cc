// Real checkpoints with known outputs, from the shared test data; skipped where that is absent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "testing/shared_data.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

std::unique_ptr<Engine> LoadKnown(const std::string& directory, const std::string& dtype = "auto") {
  EngineOptions options;
  options.backend = ChosenBackend();
  options.threads = 2;
  options.dtype = dtype;
  auto engine = LoadEngine(directory, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

TEST(KnownModelsTest, Stories260KContinuesGreedily) {
  const std::string directory = SharedData("stories260K");
  if (directory.empty()) GTEST_SKIP() << "needs T2R_DATA: stories260K";
  const auto engine = LoadKnown(directory);
  ASSERT_NE(engine, nullptr);
  EXPECT_THAT(engine->warnings, ::testing::IsEmpty());
  EXPECT_EQ(engine->config.eos_token_ids, std::vector<int32_t>({2}));
  EXPECT_THAT(Generate(*engine->executor, {1, 403, 407, 261, 378}, 12, Greedy()),
              ::testing::ElementsAre(432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338));
}

TEST(KnownModelsTest, GptNanoSortSortsAllInputs) {
  const std::string directory = SharedData("gpt-nano-sort");
  if (directory.empty()) GTEST_SKIP() << "needs T2R_DATA: gpt-nano-sort";
  const auto engine = LoadKnown(directory);
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->executor->limits().position_limit, 11);
  // Sixty-four inputs at a time, as sessions side by side.
  Executor& executor = *engine->executor;
  for (int first = 0; first < 729; first += 64) {
    const int count = std::min(64, 729 - first);
    std::vector<std::vector<int32_t>> inputs(count);
    std::vector<std::vector<int32_t>> next;
    std::vector<std::vector<int32_t>> sorted(count);
    std::vector<int> slots;
    for (int i = 0; i < count; ++i) {
      for (int digit = 0, value = first + i; digit < 6; ++digit, value /= 3) {
        inputs[i].push_back(value % 3);
      }
      slots.push_back(executor.Open({11}, Greedy()));
    }
    next = inputs;
    for (int64_t step = 0; step < 6; ++step) {
      // The prompts take 6 rows each: they go in halves to fit the step's tokens.
      for (int part = 0; part < 2; ++part) {
        std::vector<ScheduledChunk> chunks;
        for (int i = part; i < count; i += 2) {
          chunks.push_back(MakeChunk(slots[i], next[i], step == 0 ? 0 : 5 + step, true));
        }
        if (chunks.empty()) continue;
        std::vector<ChunkResult> results;
        executor.Step(chunks, &results);
        for (int i = part, w = 0; i < count; i += 2, ++w) {
          sorted[i].push_back(results[w].sampled.token);
          next[i] = {sorted[i].back()};
        }
      }
    }
    for (int i = 0; i < count; ++i) {
      executor.Close(slots[i]);
      std::sort(inputs[i].begin(), inputs[i].end());
      EXPECT_EQ(sorted[i], inputs[i]) << "input " << first + i;
    }
  }
}

TEST(KnownModelsTest, ArenTransliterates) {
  const std::string directory = SharedData("aren");
  if (directory.empty()) GTEST_SKIP() << "needs T2R_DATA: aren";
  const auto engine = LoadKnown(directory);
  ASSERT_NE(engine, nullptr);
  EXPECT_THAT(engine->warnings, ::testing::IsEmpty());
  EXPECT_EQ(engine->config.eos_token_ids, std::vector<int32_t>({2}));
  const std::vector<int32_t> source = {31, 10, 19, 13, 5, 7};  // آتزمون
  Executor& executor = *engine->executor;
  const int slot = executor.Open({7, 6}, Greedy());
  std::vector<int32_t> next = {1};
  std::vector<int32_t> found;
  for (int64_t position = 0; position < 7; ++position) {
    ScheduledChunk chunk = MakeChunk(slot, next, position, true);
    if (position == 0) chunk.source = source;
    std::vector<ChunkResult> results;
    executor.Step({&chunk, 1}, &results);
    found.push_back(results[0].sampled.token);
    next = {found.back()};
  }
  EXPECT_THAT(found, ::testing::ElementsAre(3, 11, 23, 13, 8, 7, 2));  // atzmon, end
}

}  // namespace
}  // namespace t2r::testing

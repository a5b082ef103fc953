#include "bench/cost.h"

#include <gtest/gtest.h>

#include "engine/executor/model_executor.h"
#include "tests/engine/model/counting_backend.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

constexpr int64_t kFar = 65536;

// What one decode step of `sessions` sessions counts at each of the positions. The states are
// whatever the slots hold: counting does not look at values.
std::vector<OpCounts> CountedSteps(const ModelSpec& spec, int sessions,
                                   const std::vector<int64_t>& positions) {
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, RandomWeights(spec, 2));
  const auto config = LoadModelConfig(directory.path());
  EXPECT_TRUE(config.ok()) << config.status();
  std::shared_ptr<SafetensorsDirectory> files = *SafetensorsDirectory::Open(directory.path());
  auto backend = std::make_unique<CountingBackend>(MakeBackend({"cpu", 1}));
  CountingBackend& counting = *backend;
  auto model = MakeModel(*config, *files, *backend, {DType::kFloat32});
  ModelExecutor executor(std::move(backend), files, std::move(model),
                         {sessions, 4, 4, 0, sessions * KvCache::PagesFor(kFar + 1)});
  const std::vector<int32_t> token = {3};
  std::vector<OpCounts> counts;
  for (const int64_t position : positions) {
    std::vector<ScheduledChunk> chunks;
    for (int i = 0; i < sessions; ++i) {
      chunks.push_back(MakeChunk(executor.Open({position + 1}, Greedy()), token, position, true));
    }
    counting.counts = OpCounts();
    std::vector<ChunkResult> results;
    executor.Step(chunks, &results);
    counts.push_back(counting.counts);
    for (const ScheduledChunk& chunk : chunks) executor.Close(chunk.slot);
  }
  return counts;
}

void ExpectPredicted(const ModelSpec& spec, int sessions, int64_t position) {
  const OpCounts counted = CountedSteps(spec, sessions, {position}).front();
  const auto config = ParseModelConfig(ConfigOf(spec), "");
  ASSERT_TRUE(config.ok()) << config.status();
  const StepCost cost = CostOfDecodeStep(*config, DType::kFloat32, sessions, position);
  EXPECT_EQ(cost.flops, counted.flops);
  EXPECT_EQ(cost.weight_bytes, counted.weight_bytes);
  EXPECT_EQ(cost.state_bytes, counted.state_bytes);
}

ModelSpec Spec(bool gpt2, const std::string& map, int features) {
  ModelSpec spec;
  spec.gpt2 = gpt2;
  if (gpt2) {
    spec.positions = static_cast<int>(kFar) + 1;  // a large table: everything else is small
    spec.hidden = 8;
    spec.heads = 1;
    spec.groups = 1;
    spec.layers = 2;
  }
  spec.linear.assign(spec.layers, true);
  spec.map = map;
  spec.features = features;
  return spec;
}

TEST(CostTest, ALinearModelsStepCostsTheSameAtAnyPosition) {
  for (const ModelSpec& spec :
       {Spec(false, "t2r", 16), Spec(false, "elu", 8), Spec(false, "rfa", 16),
        Spec(false, "hedgehog", 16), Spec(true, "t2r", 6), Spec(true, "hedgehog", 16)}) {
    for (const int sessions : {1, 3}) {
      const std::vector<OpCounts> counts = CountedSteps(spec, sessions, {128, kFar});
      EXPECT_GT(counts[0].flops, 0);
      EXPECT_GT(counts[0].state_bytes, 0);
      EXPECT_EQ(counts[0], counts[1]) << spec.map;
    }
  }
}

TEST(CostTest, AFullModelsStepGrows) {
  ModelSpec spec;
  spec.layers = 1;
  spec.positions = static_cast<int>(kFar) + 1;
  const std::vector<OpCounts> counts = CountedSteps(spec, 1, {128, kFar});
  const OpCounts& near = counts[0];
  const OpCounts& far = counts[1];
  EXPECT_GT(far.flops, 10 * near.flops);
  EXPECT_GT(far.state_bytes, 100 * near.state_bytes);
  EXPECT_EQ(far.weight_bytes, near.weight_bytes);
}

TEST(CostTest, ThePredictionIsWhatTheOpsCount) {
  ExpectPredicted(Spec(false, "t2r", 16), 1, 128);
  ExpectPredicted(Spec(false, "elu", 8), 3, 128);
  ExpectPredicted(Spec(false, "rfa", 16), 1, 7);
  ExpectPredicted(Spec(true, "t2r", 6), 2, 128);
  ExpectPredicted(Spec(true, "t2r", 32), 2, 128);
  ExpectPredicted(Spec(true, "hedgehog", 16), 1, 128);
  ModelSpec mixed;
  mixed.linear = {true, false, true};
  mixed.attention_bias = true;
  mixed.mlp_bias = true;
  ExpectPredicted(mixed, 3, 130);
}

}  // namespace
}  // namespace t2r::testing

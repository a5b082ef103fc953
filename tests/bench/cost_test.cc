#include "bench/cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "bench/floor.h"
#include "engine/executor/model_executor.h"
#include "engine/model/architectures.h"
#include "testing/marian_directory.h"
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
  ModelExecutor executor(std::move(backend), std::move(model),
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
  const StepCost cost = CostOfDecodeStep(*config, {}, sessions, position);
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

ModelSpec Windowed(const std::string& map, int fold) {
  ModelSpec spec;
  spec.linear.assign(spec.layers, true);
  spec.map = map;
  spec.features = 8;
  spec.window = 9;
  spec.sinks = 2;
  spec.fold = fold;
  spec.rope_features = map != "codebook";
  return spec;
}

TEST(CostTest, ThePredictionOfWindowsIsWhatTheOpsCount) {
  for (const int64_t position : {0, 3, 40, 41, 43}) {
    SCOPED_TRACE(position);
    ExpectPredicted(Windowed("codebook", 1), 2, position);
    ExpectPredicted(Windowed("t2r", 4), 1, position);
    ExpectPredicted(Windowed("t2r", 3), 3, position);
    ExpectPredicted(Windowed("none", 1), 1, position);
  }
}

TEST(CostTest, KeysAndValuesCountInTheTypeTheyAreKeptIn) {
  const ModelSpec windows = Windowed("none", 1);
  const auto config = ParseModelConfig(ConfigOf(windows), "");
  ASSERT_TRUE(config.ok()) << config.status();
  const StepCost wide = CostOfDecodeStep(*config, {}, 3, 40);
  const StepCost narrow = CostOfDecodeStep(*config, {.windows = DType::kInt8}, 3, 40);
  EXPECT_EQ(narrow.flops, wide.flops);
  EXPECT_EQ(narrow.weight_bytes, wide.weight_bytes);
  // Two sinks, a window of nine, and the new one: d floats each become d codes and a scale.
  EXPECT_EQ(wide.state_bytes - narrow.state_bytes,
            int64_t{3} * windows.layers * 2 * 12 * windows.groups *
                (config->head_dim * 4 - config->head_dim - 4));

  ModelSpec softmax;
  softmax.positions = 64;
  const auto full = ParseModelConfig(ConfigOf(softmax), "");
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(CostOfDecodeStep(*full, {}, 3, 40).state_bytes,
            2 * CostOfDecodeStep(*full, {.kv = DType::kBFloat16}, 3, 40).state_bytes);
}

// What one decode step of a Marian at `position` counts, with sources of `source` tokens. Its other
// positions went through in the step before.
OpCounts CountedMarianStep(const MarianSpec& spec, int sessions, int64_t position, int64_t source) {
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, RandomWeights(spec, 2));
  const auto config = LoadModelConfig(directory.path());
  EXPECT_TRUE(config.ok()) << config.status();
  std::shared_ptr<SafetensorsDirectory> files = *SafetensorsDirectory::Open(directory.path());
  auto backend = std::make_unique<CountingBackend>(MakeBackend({"cpu", 1}));
  CountingBackend& counting = *backend;
  auto model = MakeModel(*config, *files, *backend, {DType::kFloat32});
  ModelExecutor executor(std::move(backend), std::move(model), {sessions, 64, 64, 0, 16, 16});
  const std::vector<int32_t> sources(source, 4);
  const std::vector<int32_t> targets(position, 3);
  std::vector<ScheduledChunk> chunks;
  for (int i = 0; i < sessions; ++i) {
    const int slot = executor.Open({position + 1, source}, Greedy());
    chunks.push_back(MakeChunk(slot, targets, 0, false));
    chunks.back().source = sources;
  }
  std::vector<ChunkResult> results;
  executor.Step(chunks, &results);
  const std::vector<int32_t> token = {3};
  for (ScheduledChunk& chunk : chunks) chunk = MakeChunk(chunk.slot, token, position, true);
  counting.counts = OpCounts();
  executor.Step(chunks, &results);
  return counting.counts;
}

void ExpectPredicted(const MarianSpec& spec, int sessions, int64_t position, int64_t source) {
  const OpCounts counted = CountedMarianStep(spec, sessions, position, source);
  const auto config = ParseModelConfig(ConfigOf(spec), "");
  ASSERT_TRUE(config.ok()) << config.status();
  const StepCost cost = CostOfDecodeStep(*config, {}, sessions, position, source);
  EXPECT_EQ(cost.flops, counted.flops);
  EXPECT_EQ(cost.weight_bytes, counted.weight_bytes);
  EXPECT_EQ(cost.state_bytes, counted.state_bytes);
}

TEST(CostTest, ThePredictionForMarianIsWhatTheOpsCount) {
  MarianSpec full;
  ExpectPredicted(full, 2, 5, 7);
  MarianSpec folded;
  folded.linear = {true, false, true};
  folded.linear_cross = {true, true, false};
  folded.final_norm = true;
  ExpectPredicted(folded, 3, 9, 11);
  MarianSpec wide = folded;  // its map is not folded
  wide.features = 32;
  ExpectPredicted(wide, 1, 4, 3);
}

std::vector<DType> WeightsOf(const ModelConfig& config, DType weights) {
  std::vector<DType> found;
  for (const StepOperation& operation : OperationsOfDecodeStep(config, {weights}, 1, 5)) {
    found.push_back(operation.weights);
  }
  return found;
}

// A decoder of one layer: hidden 8, two heads of 4, inner 16, vocabulary 10, folded maps of 3
// features in both attentions; three sessions.
ModelConfig SmallMarian() {
  ModelConfig config;
  config.architecture = &kMarianArchitecture;
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.layers = 1;
  config.heads = config.kv_heads = 2;
  config.head_dim = 4;
  config.vocab_size = 10;
  config.layer_types = {LayerType::kLinearAttention};
  config.linear_attention.emplace().feature_size = 3;
  config.encoder_decoder.emplace().cross_layer_types = {LayerType::kLinearAttention};
  return config;
}

TEST(CostTest, AMarianStepByHand) {
  const ModelConfig config = SmallMarian();
  const StepCost cost = CostOfDecodeStep(config, {DType::kBFloat16}, 3, 5);
  EXPECT_EQ(cost.flops, 3 * (2 * (2 * 3 + 2 * 3 + 2 * 4) * 8  // q and k as features, v
                             + 2 * (2 * 3 * 4 + 3)            // S and z take a token
                             + 2 * (2 * 3 * 4 + 2 * 3)        // and are read by each head
                             + 2 * 8 * 8                      // out
                             + 2 * (2 * 3) * 8                // cross attention's q
                             + 2 * (2 * 3 * 4 + 2 * 3)        // reads
                             + 2 * 8 * 8                      // out
                             + 2 * 16 * 8 + 2 * 8 * 16        // up, down: no gate
                             + 2 * 10 * 8));                  // head
  EXPECT_EQ(cost.weight_bytes, (20 * 8 * 4 + 20 * 4)          // folded: float32
                                   + (8 * 8 * 2 + 8 * 4)      // out
                                   + (6 * 8 * 4 + 6 * 4)      // cross attention's q, folded
                                   + (8 * 8 * 2 + 8 * 4)      // out
                                   + (16 * 8 * 2 + 16 * 4) + (8 * 16 * 2 + 8 * 4)  //
                                   + (10 * 8 * 2 + 10 * 4)                         // head
                                   + 3 * 8 * 8);                                   // norms
  EXPECT_EQ(cost.state_bytes, 3 * (2 * 2 * 3 * 5 * 4   // S and z of two heads, read and written
                                   + 2 * 3 * 5 * 4));  // read
}

// What is folded stays float32, attention is, and the head is int8 beside int4.
TEST(CostTest, OperationsNameTheirWeights) {
  constexpr DType kF32 = DType::kFloat32;
  constexpr DType kInt4 = DType::kInt4;
  EXPECT_EQ(WeightsOf(SmallMarian(), kInt4),
            (std::vector<DType>{kF32, kF32, kInt4,  // q, k and v folded, attention, out
                                kF32, kF32, kInt4,  // the same of cross attention
                                kInt4, kInt4,       // up, down
                                DType::kInt8}));    // head
}

TEST(FloorTest, ProductsTakeThePeakOfTheirTypes) {
  const bench::Peaks peaks = {2, 50, 200, 400, 800, ""};
  const auto peak = [&](DType weights, RowRounding rows) {
    return bench::ProductPeak(weights, rows, peaks) / 1e9;
  };
  EXPECT_EQ(peak(DType::kFloat32, RowRounding::kNone), 200);
  EXPECT_EQ(peak(DType::kBFloat16, RowRounding::kNone), 200);
  EXPECT_EQ(peak(DType::kBFloat16, RowRounding::kBFloat16), 400);
  EXPECT_EQ(peak(DType::kInt8, RowRounding::kNone), 400);
  EXPECT_EQ(peak(DType::kInt4, RowRounding::kInt8), 800);
  EXPECT_EQ(bench::ProductPeak(DType::kInt8, RowRounding::kInt8, {1, 50, 200, 0, 0, ""}), 200e9);
}

TEST(FloorTest, AStepIsItsOperationsOneAfterTheOther) {
  const ModelConfig config = SmallMarian();
  const bench::FloorTypes types = {{DType::kBFloat16}, RowRounding::kBFloat16};
  // Products are then bound by arithmetic, attentions by memory.
  const bench::Peaks peaks = {2, 25, 20, 40, 0, ""};
  double seconds = 0;
  for (const StepOperation& operation : OperationsOfDecodeStep(config, types.kept, 3, 5)) {
    const double rate = operation.weights == DType::kBFloat16 ? 40e9 : 20e9;
    seconds += std::max(
        static_cast<double>(operation.cost.flops) / rate,
        static_cast<double>(operation.cost.weight_bytes + operation.cost.state_bytes) / 25e9);
  }
  const StepFloor floor = bench::FloorOfDecodeStep(config, types, peaks, 3, 5);
  EXPECT_DOUBLE_EQ(floor.seconds, seconds);
  EXPECT_GT(floor.seconds, std::max(floor.compute_seconds, floor.memory_seconds));
}

}  // namespace
}  // namespace t2r::testing

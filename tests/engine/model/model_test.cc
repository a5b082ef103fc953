// Whole models against an independent float64 implementation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/engine.h"
#include "testing/model_directory.h"
#include "testing/reference_model.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

std::unique_ptr<Engine> Load(const TemporaryDirectory& directory, const EngineOptions& options) {
  EngineOptions chosen = options;
  chosen.backend = ChosenBackend();
  chosen.max_sessions = 2;  // not all that the device's memory holds, which takes minutes to clear
  auto engine = LoadEngine(directory.path(), chosen);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

// Log probabilities [ids][vocab] by the engine, the ids fed in chunks of `chunk_size`, each chunk's
// tokens scored and the whole distribution read at its end.
std::vector<float> EngineScores(Executor& executor, const std::vector<int32_t>& ids,
                                int chunk_size) {
  SamplingParams greedy;
  greedy.temperature = 0;
  const auto count = static_cast<int64_t>(ids.size());
  const int slot = executor.Open({count}, greedy);
  EXPECT_GE(slot, 0);
  std::vector<float> scores;
  std::vector<ChunkResult> results;
  const std::span<const int32_t> all(ids);
  for (int64_t first = 0; first < count; first += chunk_size) {
    const int64_t size = std::min<int64_t>(chunk_size, count - first);
    ScheduledChunk chunk;
    chunk.slot = slot;
    chunk.tokens = all.subspan(first, size);
    chunk.position = first;
    chunk.targets = all.subspan(first + 1, std::min(size, count - first - 1));
    executor.Step({&chunk, 1}, &results);
    scores.insert(scores.end(), results[0].scores.begin(), results[0].scores.end());
  }
  executor.Close(slot);
  return scores;
}

// ‖engine − reference‖ / ‖reference‖ over the log probabilities of all ids after the first.
double RelativeError(Executor& executor, const ModelSpec& spec, const Tensors& weights,
                     const std::vector<int32_t>& ids, int chunk_size) {
  const auto logits = ReferenceLogits(spec, weights, ids);
  const std::vector<float> scores = EngineScores(executor, ids, chunk_size);
  EXPECT_EQ(scores.size(), ids.size() - 1);
  double difference = 0;
  double norm = 0;
  for (size_t t = 0; t + 1 < ids.size(); ++t) {
    const double expected = LogSoftmax(logits[t])[ids[t + 1]];
    difference += (scores[t] - expected) * (scores[t] - expected);
    norm += expected * expected;
  }
  return std::sqrt(difference / norm);
}

struct Case {
  std::string name;
  ModelSpec spec;
};

ModelSpec Gpt2Spec() {
  ModelSpec spec;
  spec.gpt2 = true;
  spec.heads = 4;
  spec.groups = 4;
  spec.head_dim = 8;
  return spec;
}

ModelSpec GptNeoxSpec() {
  ModelSpec spec;
  spec.neox = true;
  spec.groups = 4;
  spec.attention_bias = true;
  spec.rotary = 0.5;
  return spec;
}

ModelSpec Phi3Spec() {
  ModelSpec spec;
  spec.phi3 = true;
  spec.rotary = 0.75;
  return spec;
}

// A family's name and its model with softmax attention.
std::vector<Case> Families() {
  return {{"Llama", ModelSpec()},
          {"Gpt2", Gpt2Spec()},
          {"GptNeox", GptNeoxSpec()},
          {"Phi3", Phi3Spec()}};
}

// One softmax over windows, sinks and features: every map, both choices of features, folds, decay,
// sizes by layer, and what HF calls sliding windows.
void AddWindows(std::vector<Case>* cases) {
  for (const auto& [name, softmax] : Families()) {
    ModelSpec base = softmax;
    base.linear = {true, true, true};
    base.window = 6;
    base.sinks = 2;
    const std::string family = name + "Window_";
    for (const char* map : {"t2r", "elu", "rfa", "hedgehog", "codebook", "none"}) {
      ModelSpec spec = base;
      spec.map = map;
      if (spec.map == "elu") spec.features = spec.head_dim;
      spec.decay = spec.map != "none";
      cases->push_back({family + map, spec});
      spec.fold = 6;
      spec.decay = false;
      spec.rope_features = false;
      cases->push_back({family + map + "_plain_fold", spec});
    }
    ModelSpec codebook = base;
    codebook.map = "codebook";
    codebook.rope_features = false;
    codebook.window_list = {3, 0, 9};
    codebook.sink_list = {1, 0, 4};
    codebook.fold_list = {2, 1, 1};
    codebook.feature_list = {8, 12, 5};
    cases->push_back({family + "lists", codebook});
    codebook.linear = {true, false, true};
    codebook.window_list = {3, 1 << 30, 9};  // of a full layer: ignored
    cases->push_back({family + "lists_mixed", codebook});
    ModelSpec alone = base;
    alone.map = "codebook";
    alone.window = alone.sinks = 0;
    alone.decay = true;
    cases->push_back({family + "codebook_without", alone});
    alone.map = "t2r";
    alone.rope_features = false;
    cases->push_back({family + "t2r_decay_without", alone});
  }
  ModelSpec sinks;
  sinks.linear = {true, true, true};
  sinks.map = "codebook";
  sinks.window = 5;
  sinks.sinks = 3;
  sinks.rope_features = false;
  sinks.sink_position = 7;
  cases->push_back({"LlamaWindow_sink_position", sinks});
  ModelSpec sliding;
  sliding.linear = {true, true, true};
  sliding.map = "none";
  sliding.sliding_window = sliding.window = 7;
  sliding.query_scale = 1 / std::sqrt(8.0);
  cases->push_back({"MistralSlidingWindow", sliding});
  sliding.qwen2 = true;
  sliding.first_sliding = 1;
  sliding.linear = {false, true, true};
  cases->push_back({"Qwen2SlidingWindow", sliding});
}

// GPT-NeoX's other forms, Phi-3's windows, and scaled rotary positions: over whole heads and parts,
// with windows whose keys are turned back and sinks that are seen from one position.
void AddRopes(std::vector<Case>* cases) {
  ModelSpec neox = GptNeoxSpec();
  neox.parallel = false;
  neox.activation = "gelu_new";
  neox.rotary = 1;
  neox.tied = true;
  cases->push_back({"GptNeoxSequential", neox});
  neox.attention_bias = false;
  neox.rotary = 0.25;
  neox.activation = "relu";
  neox.linear = {true, false, true};
  cases->push_back({"GptNeoxWithoutBiases", neox});
  neox.parallel = true;
  neox.activation = "silu";
  cases->push_back({"GptNeoxSilu", neox});
  ModelSpec sliding = Phi3Spec();
  sliding.linear = {true, true, true};
  sliding.map = "none";
  sliding.sliding_window = sliding.window = 7;
  sliding.query_scale = 1 / std::sqrt(8.0);
  cases->push_back({"Phi3SlidingWindow", sliding});
  sliding.sliding_window = sliding.positions;  // as good as none
  sliding.linear = {};
  cases->push_back({"Phi3LongWindow", sliding});
  for (const char* type : {"yarn", "dynamic", "longrope"}) {
    for (const auto& [family, base] : Families()) {
      if (base.gpt2) continue;
      ModelSpec spec = base;
      if (spec.phi3 && std::string(type) != "longrope") continue;
      spec.rope_type = type;
      spec.rotary = spec.neox ? 0.5 : spec.rotary;
      cases->push_back({family + "Rope_" + type, spec});
      spec.rope_length = spec.rope_type == "dynamic" ? 1000 : spec.rope_type == "yarn" ? 0 : 50;
      spec.linear = {true, true, true};
      spec.map = "codebook";
      spec.window = 5;
      spec.sinks = 3;
      spec.fold = 4;
      spec.rope_features = false;
      spec.sink_position = 7;
      cases->push_back({family + "RopeWindow_" + type, spec});
    }
  }
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  AddWindows(&cases);
  const std::vector<bool> all = {true, true, true};
  for (const auto& [family, base] : Families()) {
    cases.push_back({family + "Full", base});
    for (const char* map : {"t2r", "elu", "rfa", "hedgehog"}) {
      for (const char* normalizer : {"clamp", "add"}) {
        ModelSpec spec = base;
        spec.linear = all;
        spec.map = map;
        spec.features = spec.map == "elu" ? spec.head_dim : 16;
        spec.normalizer = normalizer;
        spec.eps = spec.normalizer == "clamp" ? 1e-2 : 1e-6;
        // Σ φ(q)·φ(k) has either sign for rfa: the clamp keeps the divisor away from 0.
        if (spec.map == "rfa" && spec.normalizer == "add") spec.eps = 0.5;
        cases.push_back({family + "_" + map + "_" + normalizer, spec});
      }
    }
    ModelSpec mixed = base;
    mixed.linear = {false, true, false};
    mixed.tied = true;
    cases.push_back({family + "MixedTied", mixed});
    ModelSpec bare = base;
    bare.prefix = false;
    bare.linear = {true, false, true};
    bare.map = "hedgehog";
    cases.push_back({family + "BareNames", bare});
  }
  ModelSpec folded = Gpt2Spec();
  folded.linear = all;
  folded.features = 6;  // fewer rows than the 8 of a head: folded
  cases.push_back({"Gpt2Folded", folded});
  folded.map = "hedgehog";
  folded.features = 12;
  cases.push_back({"Gpt2FoldedHedgehog", folded});
  ModelSpec biased;
  biased.attention_bias = true;
  biased.mlp_bias = true;
  biased.linear = {true, false, true};
  cases.push_back({"LlamaBiases", biased});
  ModelSpec qwen2;
  qwen2.qwen2 = true;
  qwen2.linear = {false, true, false};
  cases.push_back({"Qwen2", qwen2});
  ModelSpec qwen3;
  qwen3.qwen3 = true;
  qwen3.head_dim = 12;  // heads · head_dim ≠ hidden
  cases.push_back({"Qwen3Full", qwen3});
  qwen3.tied = true;
  qwen3.linear = {true, false, true};
  cases.push_back({"Qwen3TiedT2r", qwen3});
  ModelSpec wide;
  wide.head_dim = 12;  // heads · head_dim ≠ hidden
  wide.groups = 1;
  wide.linear = {true, false, true};
  cases.push_back({"LlamaWideHeadsOneGroup", wide});
  ModelSpec llama3;
  llama3.head_dim = 16;
  llama3.llama3_factor = 8;
  llama3.linear = {true, false, false};
  cases.push_back({"LlamaScaledRope", llama3});
  AddRopes(&cases);
  ModelSpec stretched;
  stretched.linear_factor = 4;
  cases.push_back({"LlamaLinearRope", stretched});
  return cases;
}

class ModelTest : public ::testing::TestWithParam<Case> {};

// A float32 rounding is at most 6e-8 of its result. A log probability passes about ten roundings a
// layer whose errors do not cancel (sums over 48 terms add √48 of theirs), three layers: √30 · √48
// of them is 2.3e-6 of the value if all errors were as large as they can be; a third of that on
// average. rfa divides sums whose terms nearly cancel and is allowed three times as much.
TEST_P(ModelTest, AgreesWithTheReference) {
  const ModelSpec& spec = GetParam().spec;
  const Tensors weights = RandomWeights(spec, 17);
  TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, weights);
  EngineOptions options;
  options.threads = 2;
  const auto engine = Load(directory, options);
  ASSERT_NE(engine, nullptr);
  // What depends on a text's length is warned of.
  const bool by_length = spec.rope_type == "dynamic" || spec.rope_type == "longrope";
  EXPECT_THAT(engine->warnings, ::testing::SizeIs(by_length ? 1 : 0));
  const std::vector<int32_t> ids = SomeIds(90, spec.vocab);
  const double bound = spec.map == "rfa" && !spec.linear.empty() ? 7e-6 : 2.3e-6;
  const double error = RelativeError(*engine->executor, spec, weights, ids, 33);
  EXPECT_LT(error, bound);
  RecordProperty("relative_error_e9", static_cast<int>(error * 1e9));
}

INSTANTIATE_TEST_SUITE_P(Everything, ModelTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& test) { return test.param.name; });

struct FileCase {
  DType dtype;
  int shards;
};

class FilesTest : public ::testing::TestWithParam<FileCase> {};

TEST_P(FilesTest, SixteenBitAndShardedFilesAgreeWithTheReference) {
  for (const bool gpt2 : {false, true}) {
    ModelSpec spec = gpt2 ? Gpt2Spec() : ModelSpec();
    spec.linear = {true, false, true};
    spec.features = 6;
    spec.tied = gpt2;
    const Tensors weights = Rounded(RandomWeights(spec, 5), GetParam().dtype);
    TemporaryDirectory directory;
    directory.Write("config.json", ConfigOf(spec));
    WriteWeights(directory, weights, GetParam().dtype, GetParam().shards);
    EngineOptions options;
    options.threads = 2;
    options.dtype = "float32";
    const auto exact = Load(directory, options);
    ASSERT_NE(exact, nullptr);
    const std::vector<int32_t> ids = SomeIds(60, spec.vocab);
    EXPECT_LT(RelativeError(*exact->executor, spec, weights, ids, 16), 1e-5);
    options.dtype = "auto";
    const auto automatic = Load(directory, options);
    ASSERT_NE(automatic, nullptr);
    const bool bf16 = GetParam().dtype == DType::kBFloat16;
    EXPECT_EQ(automatic->weight_dtype, bf16 ? "bfloat16" : "float32");
    // With bfloat16 matrices a backend may round their inputs, and folded weights, to 2^-9.
    EXPECT_LT(RelativeError(*automatic->executor, spec, weights, ids, 16), bf16 ? 2e-2 : 1e-5);
    // Quantised: the ops' tests hold them to bounds; here every matrix and table must be in place,
    // tied and not. A step of int8 is a 254th of a group's range, of int4 a 15th; a device's
    // activations are bfloat16 beside int8, and it has no int4.
    const bool device = ChosenBackend() != "cpu";
    for (const auto& [weights_type, bound] :
         {std::pair{"int8", device ? 5e-2 : 3e-2}, std::pair{"int4", 3e-1}}) {
      if (device && weights_type == std::string("int4")) continue;
      options.dtype = weights_type;
      const auto quantised = Load(directory, options);
      ASSERT_NE(quantised, nullptr);
      EXPECT_LT(RelativeError(*quantised->executor, spec, weights, ids, 16), bound);
      if (device) continue;
      // An activation of 8 bits has int8's own steps.
      options.activations = "int8";
      const auto narrow = Load(directory, options);
      options.activations = "auto";
      ASSERT_NE(narrow, nullptr);
      EXPECT_LT(RelativeError(*narrow->executor, spec, weights, ids, 16), bound + 3e-2);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Everything, FilesTest,
    ::testing::Values(FileCase{DType::kFloat32, 1}, FileCase{DType::kFloat32, 3},
                      FileCase{DType::kBFloat16, 1}, FileCase{DType::kBFloat16, 4},
                      FileCase{DType::kFloat16, 1}, FileCase{DType::kFloat16, 2}));

}  // namespace
}  // namespace t2r::testing

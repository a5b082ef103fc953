// Encoder-decoders on the CUDA backend against the CPU engine: the same weights, the same ids.
#include <gtest/gtest.h>

#include "testing/device_cases.h"
#include "testing/marian_directory.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

struct Case {
  std::string name;
  MarianSpec spec;
};

std::vector<Case> AllCases() {
  MarianSpec base;
  base.decoder_layers = 2;
  std::vector<Case> cases = {{"Softmax", base}};
  for (const char* map : {"t2r", "elu", "rfa", "hedgehog"}) {
    MarianSpec spec = base;
    spec.map = map;
    spec.linear = {true, true};
    spec.linear_cross = {true, true};
    if (spec.map == "elu") spec.features = spec.head_dim();
    if (spec.map == "rfa") {
      spec.features = 32;
      spec.normalizer = "add";
    }
    cases.push_back({std::string("Linear_") + map, spec});
  }
  MarianSpec mixed = base;
  mixed.linear = {false, true};
  mixed.linear_cross = {true, false};
  mixed.features = 32;  // above the head's: not folded
  mixed.before = true;
  mixed.final_norm = true;
  mixed.activation = "gelu";
  cases.push_back({"Mixed", mixed});
  return cases;
}

class CudaMarianTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (ChosenBackend() != "cuda") GTEST_SKIP() << "T2R_CUDA_MODULE names no module";
  }

  static std::unique_ptr<Engine> Load(const std::string& backend, const std::string& dtype) {
    EngineOptions options;
    options.backend = backend;
    options.dtype = dtype;
    options.threads = 1;
    options.max_sessions = 3;
    return RandomEngine(GetParam().spec, options);
  }

  // Log probabilities of the targets of two sources, encoded in one step; the second's target goes
  // in one row a step, the first's at once.
  static std::vector<double> Scores(Executor& executor) {
    const ExecutorLimits& limits = executor.limits();
    const std::vector<int32_t> sources[] = {SomeIds(70, limits.source_vocab_size),
                                            SomeIds(5, limits.source_vocab_size, 4)};
    const std::vector<int32_t> targets[] = {SomeIds(24, limits.vocab_size, 1),
                                            SomeIds(9, limits.vocab_size, 2)};
    int slots[2];
    for (int i = 0; i < 2; ++i) {
      slots[i] = executor.Open(
          {static_cast<int64_t>(targets[i].size()), static_cast<int64_t>(sources[i].size())},
          Greedy());
      EXPECT_GE(slots[i], 0);
    }
    std::vector<double> scores;
    std::vector<ChunkResult> results;
    const auto take = [&](size_t chunk) {
      scores.insert(scores.end(), results[chunk].scores.begin(), results[chunk].scores.end());
    };
    ScheduledChunk first = MakeChunk(slots[0], std::span(targets[0]).first(23), 0);
    first.targets = std::span(targets[0]).subspan(1);
    first.source = sources[0];
    for (int64_t i = 0; i < 8; ++i) {
      ScheduledChunk second = MakeChunk(slots[1], std::span(targets[1]).subspan(i, 1), i);
      second.targets = std::span(targets[1]).subspan(i + 1, 1);
      if (i == 0) second.source = sources[1];
      const ScheduledChunk chunks[] = {second, first};
      executor.Step(std::span(chunks).first(i == 0 ? 2 : 1), &results);
      take(0);
      if (i == 0) take(1);
    }
    for (const int slot : slots) executor.Close(slot);
    return scores;
  }
};

TEST_P(CudaMarianTest, Float32LogProbabilitiesAreTheCpus) {
  const std::unique_ptr<Engine> cpu = Load("cpu", "float32");
  const std::unique_ptr<Engine> cuda = Load("cuda", "float32");
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  EXPECT_LE(RelativeError(Scores(*cuda->executor), Scores(*cpu->executor)), 1e-5);
}

// As for decoders (cuda_model_test.cc), a layer here having a third part, cross attention, and the
// encoder's layers coming before: to first order (12 decoder layers + 8 encoder layers + 2) 2⁻⁸.
TEST_P(CudaMarianTest, BFloat16LogProbabilities) {
  const std::unique_ptr<Engine> cpu = Load("cpu", "bfloat16");
  const std::unique_ptr<Engine> cuda = Load("cuda", "bfloat16");
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  const MarianSpec& spec = GetParam().spec;
  const double error = RelativeError(Scores(*cuda->executor), Scores(*cpu->executor));
  EXPECT_LE(error, (12 * spec.decoder_layers + 8 * spec.encoder_layers + 2) * 0x1p-8);
  EXPECT_GT(error, 1e-6) << "this ran in float32";
}

INSTANTIATE_TEST_SUITE_P(Models, CudaMarianTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace t2r::testing

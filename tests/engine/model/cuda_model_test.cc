// Whole models on the CUDA backend against the CPU engine: the same files, the same ids.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/device_cases.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

class CudaModelTest : public ::testing::TestWithParam<DeviceCase> {
 protected:
  void SetUp() override {
    if (ChosenBackend() != "cuda") GTEST_SKIP() << "T2R_CUDA_MODULE names no module";
    directory_.Write("config.json", ConfigOf(GetParam().spec));
    WriteWeights(directory_, Rounded(RandomWeights(GetParam().spec, 5), DType::kBFloat16));
  }

  std::unique_ptr<Engine> Load(const std::string& backend, const std::string& dtype) {
    EngineOptions options;
    options.backend = backend;
    options.dtype = dtype;
    options.threads = 1;
    options.max_sessions = 3;
    auto engine = LoadEngine(directory_.path(), options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  // Log probabilities of all ids after the first, fed in pieces of the given sizes.
  static std::vector<double> Scores(Executor& executor, const std::vector<int32_t>& ids,
                                    const std::vector<int64_t>& sizes) {
    const auto count = static_cast<int64_t>(ids.size());
    const int slot = executor.Open({count}, Greedy());
    EXPECT_GE(slot, 0);
    std::vector<double> scores;
    std::vector<ChunkResult> results;
    int64_t first = 0;
    for (const int64_t size : sizes) {
      ScheduledChunk chunk = MakeChunk(slot, std::span(ids).subspan(first, size), first);
      chunk.targets = std::span(ids).subspan(first + 1, std::min(size, count - first - 1));
      executor.Step({&chunk, 1}, &results);
      scores.insert(scores.end(), results[0].scores.begin(), results[0].scores.end());
      first += size;
    }
    EXPECT_EQ(first, count);
    executor.Close(slot);
    return scores;
  }

  TemporaryDirectory directory_;
};

TEST_P(CudaModelTest, Float32LogProbabilitiesAreTheCpus) {
  const std::unique_ptr<Engine> cpu = Load("cpu", "float32");
  const std::unique_ptr<Engine> cuda = Load("cuda", "float32");
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  const auto ids = SomeIds(70, GetParam().spec.vocab);
  const std::vector<double> want = Scores(*cpu->executor, ids, {70});
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{70}, {64, 6}, {64, 1, 1, 1, 3}, {20, 1, 49}}) {
    EXPECT_LE(RelativeError(Scores(*cuda->executor, ids, sizes), want), 1e-5)
        << "pieces of " << sizes.front();
  }
}

TEST_P(CudaModelTest, GreedyTokensAreTheCpus) {
  const std::unique_ptr<Engine> cpu = Load("cpu", "float32");
  const std::unique_ptr<Engine> cuda = Load("cuda", "float32");
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  const auto prompt = SomeIds(9, GetParam().spec.vocab, 2);
  EXPECT_EQ(Generate(*cuda->executor, prompt, 12, Greedy()),
            Generate(*cpu->executor, prompt, 12, Greedy()));
  SamplingParams warm;
  warm.top_p = 0.9F;
  warm.seed = 12;
  EXPECT_EQ(Generate(*cuda->executor, prompt, 12, warm),
            Generate(*cpu->executor, prompt, 12, warm));
}

TEST_P(CudaModelTest, FourBitsAreRefusedByName) {
  EngineOptions options;
  options.backend = "cuda";
  options.dtype = "int4";
  const auto engine = LoadEngine(directory_.path(), options);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(engine.status().message()), ::testing::HasSubstr("int4"));
}

// Both on bfloat16 weights; the CPU's activations are float32. On the device a half of a layer
// (attention or feed-forward) rounds to bfloat16 at most four times on its way (norm, projections,
// features or weights, output) and the last norm once, each by 2⁻⁸ relative; the residual stream is
// float32. To first order, without amplification, that is (8 layers + 1) 2⁻⁸ of the result.
TEST_P(CudaModelTest, BFloat16LogProbabilities) {
  const std::unique_ptr<Engine> cpu = Load("cpu", "bfloat16");
  const std::unique_ptr<Engine> cuda = Load("cuda", "bfloat16");
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  const auto ids = SomeIds(32, GetParam().spec.vocab);
  const std::vector<double> want = Scores(*cpu->executor, ids, {32});
  const double bound = (8 * GetParam().spec.layers + 1) * 0x1p-8;
  const double whole = RelativeError(Scores(*cuda->executor, ids, {32}), want);
  EXPECT_LE(whole, bound);
  EXPECT_LE(RelativeError(Scores(*cuda->executor, ids, std::vector<int64_t>(32, 1)), want), bound);
  EXPECT_GT(whole, 1e-6) << "this ran in float32";
}

INSTANTIATE_TEST_SUITE_P(Models, CudaModelTest, ::testing::ValuesIn(DeviceCases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace t2r::testing

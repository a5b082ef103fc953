// Which matrices of a model in 4 bits stay in 8: what they cost, the choice, and what is written.
#include "convert/quantize/wider_matrices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "convert/error.h"
#include "convert/quantize/quantize_model.h"
#include "convert/quantize/watched_model.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/ops/cpu/quantize_group.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::convert {
namespace {

using t2r::testing::ConfigOf;
using t2r::testing::ModelSpec;
using t2r::testing::RandomWeights;
using t2r::testing::SomeIds;
using t2r::testing::TemporaryDirectory;
using t2r::testing::WriteWeights;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

void Ignore(double /*share*/, const std::string& /*what*/) {}

TEST(ChooseWiderTest, TakesWhatSavesTheMostAByteWhileItFits) {
  const std::vector<WideningCost> costs = {{0.5, 100}, {0.4, 10}, {0.3, 5}, {0, 1}, {0.2, 50}};
  EXPECT_THAT(ChooseWider(costs, 1000), ElementsAre(2, 1, 0, 4));
  EXPECT_THAT(ChooseWider(costs, 115), ElementsAre(2, 1, 0));
  EXPECT_THAT(ChooseWider(costs, 114), ElementsAre(2, 1, 4));  // the third does not fit
  EXPECT_THAT(ChooseWider(costs, 4), IsEmpty());
  EXPECT_THAT(ChooseWider(costs, -1), IsEmpty());
}

class WiderMatricesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_.Write("config.json", ConfigOf(spec_));
    WriteWeights(model_, weights_);
    for (int n = 0; n < 3; ++n) {
      std::vector<int32_t> ids = SomeIds(70 + n, spec_.vocab);
      ids[0] = n;
      corpus_.documents.push_back(ids);
    }
  }
  std::string Out() const { return out_.path() + "/mixed"; }

  // log p of every id behind `first`.
  std::vector<double> Distribution(const std::string& directory, int32_t first) const {
    EngineOptions options;
    options.backend = "cpu";
    const auto engine = LoadEngine(directory, options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    std::vector<double> all;
    for (int32_t id = 0; id < spec_.vocab; ++id) {
      ScheduledChunk chunk;
      chunk.slot = (*engine)->executor->Open({2}, SamplingParams());
      chunk.tokens = {&first, 1};
      chunk.targets = {&id, 1};
      std::vector<ChunkResult> results;
      (*engine)->executor->Step({&chunk, 1}, &results);
      (*engine)->executor->Close(chunk.slot);
      all.push_back(results.at(0).scores.at(0));
    }
    return all;
  }

  ModelSpec spec_;
  t2r::testing::Tensors weights_ = RandomWeights(spec_, 3);
  TemporaryDirectory model_, out_;
  Corpus corpus_;
};

// Held to the engine's own distributions with and without what the codes stand for.
TEST_F(WiderMatricesTest, ADivergenceIsThatOfTheWholeDistributions) {
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  auto coarse = weights_;
  std::vector<float>& values = coarse.at(name).values;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
  const int64_t rows = spec_.hidden;
  const int64_t cols = spec_.inner;
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < cols; k += kQuantGroup) {
      const int64_t count = std::min(kQuantGroup, cols - k);
      float* const from = values.data() + n * cols + k;
      const QuantizedGroup group = QuantizeGroup(from, count, DType::kInt4);
      for (int64_t i = 0; i < count; ++i) from[i] = group.Value(DType::kInt4, i);
      scales.insert(scales.end(), {group.scale, group.minimum});
      for (size_t i = 0; i < kQuantGroup / 2; ++i) {
        codes.push_back(static_cast<uint8_t>(group.codes[i] | group.codes[i + 16] << 4U));
      }
    }
  }
  const TemporaryDirectory rounded;
  rounded.Write("config.json", ConfigOf(spec_));
  WriteWeights(rounded, coarse);
  corpus_.documents = {{7, 3}};
  const std::vector<double> p = Distribution(model_.path(), 7);
  const std::vector<double> q = Distribution(rounded.path(), 7);
  double want = 0;
  for (size_t i = 0; i < p.size(); ++i) want += std::exp(p[i]) * (p[i] - q[i]);
  ASSERT_GT(want, 1e-5);

  const auto config = LoadModelConfig(model_.path());
  const auto files = SafetensorsDirectory::Open(model_.path());
  ASSERT_TRUE(config.ok() && files.ok());
  WatchedModel model(*config, **files, corpus_);
  model.RememberPredictions(1);
  EXPECT_EQ(model.Divergence(), 0);
  const HostMatrix part = {codes.data(), DType::kInt4, rows, cols, false, scales.data()};
  for (const LoadedMatrix& loaded : model.matrices()) {
    if (loaded.names[0] != name) continue;
    model.Replace(loaded.matrix, {&part, 1});
    EXPECT_NEAR(model.Divergence(), want, 0.02 * want);
    model.Replace(loaded.matrix, {});
  }
  EXPECT_EQ(model.Divergence(), 0);
}

TEST_F(WiderMatricesTest, KeepsWithinTheBits) {
  double last = 0;
  for (const double bits : {5.8, 7.0, 8.0, 20.0}) {
    SCOPED_TRACE(bits);
    const QuantizeSummary summary =
        QuantizeModel(model_.path(), Out(), {DType::kInt4, &corpus_, bits}, Ignore);
    ASSERT_EQ(summary.widened.size(), static_cast<size_t>(4 * spec_.layers));
    const auto files = SafetensorsDirectory::Open(Out());
    ASSERT_TRUE(files.ok());
    int64_t weights = 0;
    int64_t bytes = 0;
    size_t wide = 0;
    for (const WidenedMatrix& matrix : summary.widened) {
      EXPECT_GT(matrix.divergence, 0);
      wide += matrix.wide ? 1 : 0;
      for (const std::string& name : matrix.names) {
        const auto& shape = weights_.at(name).shape;
        const auto rank = (*files)->Find(name + ".scales")->shape.size();
        EXPECT_EQ(rank, matrix.wide ? size_t{2} : size_t{3}) << name;
        weights += shape[0] * shape[1];
        bytes += MatrixBytes(shape[0], shape[1], matrix.wide ? DType::kInt8 : DType::kInt4);
      }
    }
    const double used = 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
    EXPECT_NEAR(summary.bits, used, 1e-9);
    EXPECT_GE(used, last);
    last = used;
    if (bits == 20) {
      EXPECT_EQ(wide, summary.widened.size());
    } else {
      EXPECT_LE(used, bits);
      EXPECT_GT(wide, 0U);
      EXPECT_LT(wide, summary.widened.size());
      EXPECT_LT(summary.divergence, summary.divergence_narrow);
    }
    EngineOptions options;
    options.backend = "cpu";
    EXPECT_TRUE(LoadEngine(Out(), options).ok());
  }
}

TEST_F(WiderMatricesTest, BitsBelowThoseOfInt4AreRefused) {
  try {
    QuantizeModel(model_.path(), Out(), {DType::kInt4, &corpus_, 4}, Ignore);
    FAIL() << "taken";
  } catch (const ConvertError& error) {
    EXPECT_THAT(error.what(), HasSubstr("4 bits a weight: the projections take 5."));
  }
}

TEST_F(WiderMatricesTest, BitsNeedInt4AndAText) {
  for (const QuantizeOptions& options :
       {QuantizeOptions{DType::kInt8, &corpus_, 6}, QuantizeOptions{DType::kInt4, nullptr, 6}}) {
    try {
      QuantizeModel(model_.path(), Out(), options, Ignore);
      FAIL() << "taken";
    } catch (const ConvertError& error) {
      EXPECT_THAT(error.what(), HasSubstr("int4 and a text"));
    }
  }
}

}  // namespace
}  // namespace t2r::convert

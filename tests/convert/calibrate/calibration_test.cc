#include "convert/calibrate/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <numeric>
#include <string>
#include <vector>

#include "convert/train/loss.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

// Long enough that windows leave most of it behind.
Corpus LongCorpus() {
  Corpus corpus;
  for (int64_t i = 0; i < 6; ++i) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < 70; ++t) {
      ids.push_back(static_cast<int32_t>((t * t * (i + 3) + 5 * t + i) % 37));
    }
    corpus.tokens += 70;
    corpus.documents.push_back(ids);
  }
  return corpus;
}

ModelConfig CodebookConfig(const std::string& json, int features, int window) {
  SwapOptions options{FeatureMapKind::kCodebook, features, {}, {}};
  options.window = window;
  options.sinks = window > 0 ? 2 : 0;
  options.rope_features = false;
  return SwappedConfig(Unwrap(ParseModelConfig(json, "")), options);
}

// A swap of the parent, calibrated.
TrainingModel Calibrated(const TrainingModel& parent, const ModelConfig& config,
                         const Corpus& corpus, int threads) {
  TrainingModel model(config, torch::kCPU);
  const torch::NoGradGuard no_grad;
  for (const auto& spec : parent.parameters().specs()) {
    model.parameters().Get(spec.name).detach().copy_(parent.parameters().Get(spec.name));
  }
  InitializeFeatureMaps(&model, 1);
  Calibration(parent, corpus, config, 7, threads, nullptr).SetCodebooks(&model, threads, nullptr);
  return model;
}

double TransferLossOf(const TrainingModel& model, const Corpus& corpus) {
  BatchPlan plan;
  plan.windows = CutWindows(corpus, 80);
  for (const Window& window : plan.windows) {
    plan.length = std::max(plan.length, window.length);
    plan.source_length = std::max(plan.source_length, window.source_length);
  }
  const TokenBatch batch = MakeBatch(corpus, plan, torch::kCPU);
  return model.TransferLoss(batch.input, batch.counted);
}

TEST(Calibration, ComesNearerToTheParentThanRandomCentroids) {
  for (const std::string& json :
       {SmallLlamaJson(), SmallGpt2Json(), SmallGptNeoxJson(), SmallPhi3Json()}) {
    TrainingModel parent(Unwrap(ParseModelConfig(json, "")), torch::kCPU);
    Randomize(&parent, 4);
    const Corpus corpus = LongCorpus();
    const ModelConfig config = CodebookConfig(json, 24, 8);
    TrainingModel model = Calibrated(parent, config, corpus, 2);
    const double calibrated = TransferLossOf(model, corpus);
    const std::vector<double> errors = ChooseFarBiases(parent, corpus, 2, &model, nullptr);
    const double chosen = TransferLossOf(model, corpus);
    EXPECT_NEAR(std::accumulate(errors.begin(), errors.end(), 0.0), chosen, 1e-4 * chosen)
        << "what is left is the transfer's loss";
    EXPECT_LE(chosen, calibrated) << "a bias of 0 was among those to choose from";
    InitializeFeatureMaps(&model, 1);
    // Random centroids do better where a part of each head does not turn.
    const double share = config.rotary_dim > 0 && config.rotary_dim < config.head_dim ? 0.9 : 0.8;
    EXPECT_LT(chosen, share * TransferLossOf(model, corpus));
  }
}

TEST(Calibration, OfCrossAttentionComesNearerToTheParent) {
  const std::string json = SmallOpusJson();
  TrainingModel parent(Unwrap(ParseModelConfig(json, "")), torch::kCPU);
  Randomize(&parent, 4);
  const Corpus corpus = SmallPairs();
  TrainingModel model = Calibrated(parent, CodebookConfig(json, 16, 3), corpus, 1);
  const double calibrated = TransferLossOf(model, corpus);
  InitializeFeatureMaps(&model, 1);
  EXPECT_LT(calibrated, 0.8 * TransferLossOf(model, corpus));
}

TEST(Calibration, DoesNotDependOnThreads) {
  TrainingModel parent(Unwrap(ParseModelConfig(SmallLlamaJson(), "")), torch::kCPU);
  Randomize(&parent, 4);
  const Corpus corpus = LongCorpus();
  const ModelConfig config = CodebookConfig(SmallLlamaJson(), 12, 8);
  const TrainingModel one = Calibrated(parent, config, corpus, 1);
  const TrainingModel three = Calibrated(parent, config, corpus, 3);
  EXPECT_TRUE(torch::equal(one.parameters().flat(), three.parameters().flat()));
}

TEST(Calibration, RefusesMoreCentroidsThanKeys) {
  TrainingModel parent(Unwrap(ParseModelConfig(SmallLlamaJson(), "")), torch::kCPU);
  Randomize(&parent, 4);
  const ModelConfig config = CodebookConfig(SmallLlamaJson(), 1000, 8);
  EXPECT_THAT([&] { Calibrated(parent, config, LongCorpus(), 1); },
              ::testing::ThrowsMessage<ConvertError>(::testing::HasSubstr("1000 centroids")));
}

TEST(Excerpts, OfDifferentNumbersDoNotOverlap) {
  Corpus corpus;
  corpus.documents = {{}, {}};
  for (int32_t i = 0; i < 101; ++i) corpus.documents[0].push_back(i);
  for (int32_t i = 0; i < 41; ++i) corpus.documents[1].push_back(1000 + i);
  // Windows of 10 predictions: ten of the first document, four of the second.
  const Corpus even = Excerpts(corpus, 10, 7, 0, 2), odd = Excerpts(corpus, 10, 7, 1, 2);
  ASSERT_EQ(even.documents.size(), 7U);
  ASSERT_EQ(odd.documents.size(), 7U);
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(even.documents[i].size(), 11U);
    for (size_t j = 0; j < 7; ++j) EXPECT_NE(even.documents[i][0], odd.documents[j][0]);
  }
  EXPECT_EQ(Excerpts(corpus, 10, 100, 0, 2).documents.size(), 7U);
}

}  // namespace
}  // namespace t2r::convert

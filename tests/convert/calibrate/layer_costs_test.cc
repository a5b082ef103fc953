#include "convert/calibrate/layer_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "convert/calibrate/calibration.h"
#include "convert/train/loss.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

Corpus ShortTexts() {
  Corpus corpus;
  corpus.documents = {{3, 9, 27, 7, 21, 26, 4}, {5, 11, 2, 36}, {8, 1, 30, 30, 19, 12}};
  corpus.tokens = 17;
  return corpus;
}

TEST(Divergence, IsTheMeanOverPredictionsOfTheSumOverTheVocabulary) {
  const ModelConfig config = Unwrap(ParseModelConfig(SmallLlamaJson(), ""));
  TrainingModel parent(config, torch::kCPU), other(config, torch::kCPU);
  Randomize(&parent, 4);
  Randomize(&other, 5);
  const Corpus corpus = ShortTexts();
  // By the definition, a document at a time, in float64.
  const torch::NoGradGuard no_grad;
  double sum = 0, predictions = 0;
  for (const auto& ids : corpus.documents) {
    const auto count = static_cast<int64_t>(ids.size()) - 1;
    const torch::Tensor input =
        torch::tensor(std::vector<int64_t>(ids.begin(), ids.end() - 1)).unsqueeze(0);
    const torch::Tensor p =
        parent.Logits(parent.Hidden({input, {}, {}})).to(torch::kFloat64).softmax(-1);
    const torch::Tensor q =
        other.Logits(other.Hidden({input, {}, {}})).to(torch::kFloat64).softmax(-1);
    sum += (p * (p / q).log()).sum().item<double>();
    predictions += static_cast<double>(count);
  }
  for (const int threads : {1, 3}) {
    const Divergence divergence(parent, corpus, threads);
    EXPECT_NEAR(divergence.Of(other), sum / predictions, 1e-5);
    EXPECT_NEAR(divergence.Of(parent), 0, 1e-7);
  }
}

// The parent with windows alone in every layer, of two keys or as `sizes` says.
TrainingModel WithWindows(const TrainingModel& parent, const std::vector<LinearSizes>& sizes = {}) {
  SwapOptions options{FeatureMapKind::kNone, 0, {}, {}};
  options.window = 2;
  ModelConfig config = SwappedConfig(parent.config(), options);
  config.linear_attention->layers = sizes;
  TrainingModel model(config, torch::kCPU);
  const torch::NoGradGuard no_grad;
  model.parameters().flat().copy_(parent.parameters().flat());
  return model;
}

TEST(CostsAlone, AreOfOneLayerEachAndNoneWhereTheWindowIsTheText) {
  TrainingModel parent(Unwrap(ParseModelConfig(SmallLlamaJson(), "")), torch::kCPU);
  Randomize(&parent, 4);
  TrainingModel model = WithWindows(parent, {{0, 2, 0, 1}, {0, 7, 0, 1}, {0, 1, 0, 1}});
  Progress progress(stderr, 1000);
  const Corpus corpus = ShortTexts();
  const Divergence divergence(parent, corpus, 1);
  const std::vector<double> costs = CostsAlone(divergence, &model, &progress);
  EXPECT_GT(costs[0], 1e-4);
  EXPECT_NEAR(costs[1], 0, 1e-7);
  EXPECT_GT(costs[2], 1e-4);
  // All layers are as they were, and all are swapped in what follows.
  EXPECT_EQ(model.config().linear_layers(), 3);
  EXPECT_GT(divergence.Of(model), 1e-4);
}

TEST(CostsAlone, AreThoseOfWholePassesWhereTheLayersBelowAreTheParents) {
  for (const std::string& json : {SmallLlamaJson(), SmallGpt2Json(), SmallGptNeoxJson()}) {
    SCOPED_TRACE(json);
    TrainingModel parent(Unwrap(ParseModelConfig(json, "")), torch::kCPU);
    Randomize(&parent, 4);
    TrainingModel model = WithWindows(parent);
    const ModelConfig config = model.config();
    Progress progress(stderr, 1000);
    const Corpus corpus = ShortTexts();
    const Divergence divergence(parent, corpus, 2);
    const std::vector<double> costs = CostsAlone(divergence, &model, &progress);
    ASSERT_EQ(costs.size(), static_cast<size_t>(config.layers));
    for (size_t layer = 0; layer < costs.size(); ++layer) {
      ModelConfig one = config;
      std::fill(one.layer_types.begin(), one.layer_types.end(), LayerType::kFullAttention);
      one.layer_types[layer] = LayerType::kLinearAttention;
      model.SetLayerTypes(one);
      EXPECT_GT(costs[layer], 1e-5);
      EXPECT_DOUBLE_EQ(costs[layer], divergence.Of(model));
    }
  }
}

TEST(CostsByError, KeepsWhatIsMeasuredAndFollowsTheErrorElsewhere) {
  const std::vector<double> errors{0.4, 0.2, 0.1, 0.05, 0.025};
  // One measured: cost / error is 0.5 throughout.
  EXPECT_THAT(CostsByError(errors, {{1, 0.1}}),
              ElementsAre(DoubleNear(0.2, 1e-12), 0.1, DoubleNear(0.05, 1e-12),
                          DoubleNear(0.025, 1e-12), DoubleNear(0.0125, 1e-12)));
  // Two: 1 at 0.2 and 0.25 at 0.05, so 0.5 at their geometric mean.
  EXPECT_THAT(CostsByError(errors, {{1, 0.2}, {3, 0.0125}}),
              ElementsAre(DoubleNear(0.4, 1e-12), 0.2, DoubleNear(0.05, 1e-12), 0.0125,
                          DoubleNear(0.00625, 1e-12)));
  // A size that leaves no error costs nothing.
  EXPECT_NEAR(CostsByError({0.2, 0}, {{0, 0.1}})[1], 0, 1e-11);
}

}  // namespace
}  // namespace t2r::convert

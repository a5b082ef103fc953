// LoRA: low-rank updates beside frozen weights, added into them when the model is written.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "convert/train/gradient.h"
#include "convert/train/loss.h"
#include "testing/temporary_directory.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

constexpr int kRank = 3;

// A swapped model with LoRA factors that are not zero.
TrainingModel LoraModel(const std::string& json) {
  const ModelConfig parent = Unwrap(ParseModelConfig(json, ""));
  TrainableOptions trainable;
  trainable.lora_rank = kRank;
  trainable.lora_alpha = 6;
  TrainingModel model(SwappedConfig(parent, {FeatureMapKind::kT2r, 10, {1}, {}}), torch::kCPU,
                      trainable);
  Randomize(&model, 3);
  InitializeLora(&model, 4);
  const torch::NoGradGuard no_grad;
  for (const auto& spec : model.parameters().specs()) {
    if (!spec.name.ends_with(".lora_b")) continue;
    torch::Tensor factor = model.parameters().Get(spec.name);
    factor.copy_(torch::randn(spec.shape) * 0.2);
  }
  return model;
}

class LoraTest : public ::testing::TestWithParam<std::string> {};

// The bound: products of a row of at most 48 float32 values, in two orders, through three layers.
TEST_P(LoraTest, TheWrittenModelGivesTheSameLogits) {
  const TrainingModel model = LoraModel(GetParam());
  const TemporaryDirectory directory;
  WriteModelDirectory(directory / "out", SwappedConfigJson(GetParam(), model.config(), "float32"),
                      model, "float32", "");
  TrainingModel merged(model.config(), torch::kCPU);
  LoadParameters(directory / "out", &merged, false);
  const torch::NoGradGuard no_grad;
  const ModelInput input{torch::arange(60).view({2, 30}) % 37, {}, {}};
  const torch::Tensor with = model.Logits(model.Hidden(input));
  const torch::Tensor without = merged.Logits(merged.Hidden(input));
  EXPECT_LT(((with - without).norm() / with.norm()).item<double>(), 1e-5);

  TrainingModel plain(model.config(), torch::kCPU);
  for (const auto& spec : plain.parameters().specs()) {
    torch::Tensor value = plain.parameters().Get(spec.name);
    value.copy_(model.parameters().Get(spec.name));
  }
  EXPECT_GT(((with - plain.Logits(plain.Hidden(input))).norm() / with.norm()).item<double>(), 0.05)
      << "the updates must matter";
}

TEST_P(LoraTest, UpdatesStartAtZeroAndOnlyTheyAndTheMapsLearn) {
  const ModelConfig parent = Unwrap(ParseModelConfig(GetParam(), ""));
  TrainableOptions trainable;
  trainable.lora_rank = kRank;
  TrainingModel model(SwappedConfig(parent, {FeatureMapKind::kT2r, 10, {}, {}}), torch::kCPU,
                      trainable);
  Randomize(&model, 3);
  InitializeFeatureMaps(&model, 3);
  InitializeLora(&model, 4);
  int matrices = 0, factors = 0;
  for (const auto& spec : model.parameters().specs()) {
    const torch::Tensor& value = model.parameters().Get(spec.name);
    EXPECT_EQ(value.requires_grad(), spec.lora || (spec.feature_map && !IsLogDecay(spec)))
        << spec.name;
    if (spec.lora) {
      ++factors;
      EXPECT_EQ(value.abs().max().item<float>() == 0, spec.name.ends_with(".lora_b")) << spec.name;
    }
    if (spec.decay) {
      ++matrices;
      EXPECT_TRUE(torch::equal(model.Value(spec.name), value)) << spec.name;
    }
  }
  EXPECT_GT(matrices, 0);
  EXPECT_EQ(factors, 2 * matrices);

  std::vector<std::unique_ptr<TrainingModel>> replicas;
  replicas.push_back(TrainingModel::Replica(model));
  const Corpus corpus = SmallCorpus();
  BatchGradient(replicas, {}, corpus, PlanOf(corpus));
  for (const auto& spec : model.parameters().specs()) {
    if (!spec.name.ends_with(".lora_b")) continue;
    const float largest = replicas[0]->parameters().Get(spec.name).grad().abs().max().item<float>();
    EXPECT_GT(largest, 0.0F) << spec.name;
  }
}

// The directional derivative along the factors' and maps' gradient, against the loss nearby.
TEST_P(LoraTest, TheGradientIsTheLossesDerivative) {
  TrainingModel model = LoraModel(GetParam());
  const Corpus corpus = SmallCorpus();
  std::vector<std::unique_ptr<TrainingModel>> replicas;
  replicas.push_back(TrainingModel::Replica(model));
  BatchGradient(replicas, {}, corpus, PlanOf(corpus));
  const torch::Tensor gradient = replicas[0]->parameters().flat_grad().clone();
  const torch::NoGradGuard no_grad;
  torch::Tensor values = model.parameters().flat();
  const double expected = gradient.norm().item<double>();
  const torch::Tensor direction = gradient / expected;
  constexpr double kStep = 2e-3;
  values.add_(direction, kStep);
  const double above = Evaluate(model, corpus).nats_per_token();
  values.sub_(direction, 2 * kStep);
  const double below = Evaluate(model, corpus).nats_per_token();
  EXPECT_NEAR((above - below) / (2 * kStep), expected, 0.02 * expected);
}

std::string ArchitectureOf(const ::testing::TestParamInfo<std::string>& tested) {
  constexpr const char* kNames[] = {"llama", "gpt2", "gpt_neox", "phi3"};
  return kNames[tested.index];
}

INSTANTIATE_TEST_SUITE_P(Architectures, LoraTest,
                         ::testing::Values(SmallLlamaJson(), SmallGpt2Json(), SmallGptNeoxJson(),
                                           SmallPhi3Json()),
                         ArchitectureOf);

}  // namespace
}  // namespace t2r::convert

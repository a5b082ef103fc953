#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "convert/data/files.h"
#include "convert/data/staged_directory.h"
#include "convert/error.h"
#include "convert/model/init.h"
#include "convert/model/model_dir.h"
#include "testing/temporary_directory.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

ModelConfig Parent() { return Unwrap(ParseModelConfig(SmallLlamaJson(), "")); }

TEST(SwappedConfig, WritesTheMapsDefaults) {
  const ModelConfig t2r = SwappedConfig(Parent(), {FeatureMapKind::kT2r, 10, {1}, {}});
  EXPECT_THAT(t2r.layer_types, ElementsAre(LayerType::kLinearAttention, LayerType::kFullAttention,
                                           LayerType::kLinearAttention));
  EXPECT_EQ(t2r.linear_attention->normalizer, Normalizer::kClamp);
  EXPECT_FLOAT_EQ(t2r.linear_attention->eps, 1e-2F);
  EXPECT_FLOAT_EQ(t2r.linear_attention->query_scale, 1.0F / std::sqrt(6.0F));
  const ModelConfig elu = SwappedConfig(Parent(), {FeatureMapKind::kElu, 0, {}, {}});
  EXPECT_EQ(elu.linear_attention->feature_size, 6);
  EXPECT_EQ(elu.linear_attention->normalizer, Normalizer::kAdd);
  EXPECT_FLOAT_EQ(elu.linear_attention->eps, 1e-6F);
}

TEST(SwappedConfig, RefusesWhatCannotBe) {
  const auto swap = [](FeatureMapKind map, int k, std::vector<int> keep) {
    return [=] { SwappedConfig(Parent(), {map, k, keep, {}}); };
  };
  EXPECT_THAT(swap(FeatureMapKind::kRfa, 7, {}), ThrowsMessage<ConvertError>(HasSubstr("even")));
  EXPECT_THAT(swap(FeatureMapKind::kHedgehog, 7, {}),
              ThrowsMessage<ConvertError>(HasSubstr("even")));
  EXPECT_THAT(swap(FeatureMapKind::kT2r, 0, {}),
              ThrowsMessage<ConvertError>(HasSubstr("--feature-size must be at least 1")));
  EXPECT_THAT(swap(FeatureMapKind::kElu, 8, {}),
              ThrowsMessage<ConvertError>(HasSubstr("head_dim, 6")));
  EXPECT_THAT(swap(FeatureMapKind::kT2r, 8, {3}),
              ThrowsMessage<ConvertError>(HasSubstr("layers 0 to 2")));
  EXPECT_THAT(swap(FeatureMapKind::kT2r, 8, {0, 1, 2}),
              ThrowsMessage<ConvertError>(HasSubstr("every layer")));
  const ModelConfig done = SwappedConfig(Parent(), {FeatureMapKind::kT2r, 8, {}, {}});
  EXPECT_THAT(
      [&] {
        SwappedConfig(done, {FeatureMapKind::kT2r, 8, {}, {}});
      },
      ThrowsMessage<ConvertError>(HasSubstr("linear layers already")));
}

TEST(SwappedConfigJson, KeepsOtherKeysAndReadsBack) {
  const ModelConfig swapped = SwappedConfig(Parent(), {FeatureMapKind::kT2r, 10, {1}, {}});
  const std::string text = SwappedConfigJson(SmallLlamaJson(), swapped, "bfloat16");
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["x_note"], "kept");
  EXPECT_EQ(json["rope_scaling"]["factor"], 8.0);
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
  EXPECT_EQ(json["linear_attention"]["eps"], 0.01);
  const ModelConfig read = Unwrap(ParseModelConfig(text, ""));
  EXPECT_EQ(read.layer_types, swapped.layer_types);
  EXPECT_EQ(read.linear_attention->feature_size, 10);
  EXPECT_EQ(read.linear_attention->query_scale, swapped.linear_attention->query_scale);
}

TEST(WriteModelDirectory, KeepsSideFilesReplacesModelsAndNothingElse) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "side");
  directory.Write("side/tokenizer.model", "pieces");
  directory.Write("side/generation_config.json", "{}");
  TrainingModel model(Parent(), torch::kCPU);
  Randomize(&model, 1);
  for (int time = 0; time < 2; ++time) {
    WriteModelDirectory(directory / "out", SmallLlamaJson(), model, "bfloat16", directory / "side");
  }
  EXPECT_EQ(ReadFile(directory / "out/tokenizer.model"), "pieces");
  EXPECT_EQ(ReadFile(directory / "out/generation_config.json"), "{}");
  EXPECT_FALSE(std::filesystem::exists(directory / "out.writing"));
  EXPECT_FALSE(std::filesystem::exists(directory / "out.replaced"));

  // What comes back is what was written, rounded to bfloat16.
  TrainingModel read(Parent(), torch::kCPU);
  LoadParameters(directory / "out", &read, false);
  EXPECT_TRUE(torch::equal(read.parameters().flat(),
                           model.parameters().flat().to(torch::kBFloat16).to(torch::kFloat32)));

  std::filesystem::create_directory(directory / "other");
  directory.Write("other/precious", "x");
  EXPECT_THAT([&] { CheckOutputDirectory(directory / "other"); },
              ThrowsMessage<ConvertError>(HasSubstr("not a model directory")));
  EXPECT_THAT(
      [&] { WriteModelDirectory(directory / "other", SmallLlamaJson(), model, "float32", ""); },
      ThrowsMessage<ConvertError>(HasSubstr("not a model directory")));
  EXPECT_EQ(ReadFile(directory / "other/precious"), "x");
}

TEST(LoadParameters, NamesMissingTensorsAndWrongShapes) {
  const TemporaryDirectory directory;
  WriteSmallModel(directory / "model", SmallLlamaJson(), 1);
  TrainingModel swapped(SwappedConfig(Parent(), {FeatureMapKind::kT2r, 10, {}, {}}), torch::kCPU);
  EXPECT_THAT([&] { LoadParameters(directory / "model", &swapped, false); },
              ThrowsMessage<ConvertError>(
                  HasSubstr("model.layers.0.self_attn.feature_map.weight is missing")));
  EXPECT_NO_THROW(LoadParameters(directory / "model", &swapped, true));
  ModelConfig wider = Parent();
  wider.intermediate_size = 44;
  TrainingModel other(wider, torch::kCPU);
  EXPECT_THAT(
      [&] { LoadParameters(directory / "model", &other, false); },
      ThrowsMessage<ConvertError>(HasSubstr("[40, 24], the configuration asks for [44, 24]")));
}

TEST(InitializeFeatureMaps, IsSeededAndRfaRowsAreOrthogonal) {
  const ModelConfig config = SwappedConfig(Parent(), {FeatureMapKind::kRfa, 12, {}, {}});
  TrainingModel a(config, torch::kCPU), b(config, torch::kCPU), c(config, torch::kCPU);
  InitializeFeatureMaps(&a, 4);
  InitializeFeatureMaps(&b, 4);
  InitializeFeatureMaps(&c, 5);
  EXPECT_TRUE(torch::equal(a.parameters().flat(), b.parameters().flat()));
  EXPECT_FALSE(torch::equal(a.parameters().flat(), c.parameters().flat()));
  const torch::Tensor rows =
      a.parameters().Get("model.layers.0.self_attn.feature_map.projection").detach()[0];
  const torch::Tensor products = torch::mm(rows, rows.t());
  EXPECT_LT((products - products.diag().diag()).abs().max().item<float>(), 1e-4F);
}

}  // namespace
}  // namespace t2r::convert

// The converter and the engine are two implementations of the same mathematics: a directory that
// the converter writes gives the same log-probabilities in both.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <optional>
#include <string>
#include <vector>

#include "convert/model/model_dir.h"
#include "engine/engine.h"
#include "testing/temporary_directory.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

struct AgreementCase {
  const char* name;
  std::string (*parent)();  // its config.json
  FeatureMapKind map;
  Normalizer normalizer;
  int k;
  std::vector<int> keep_full;
};

class EngineAgreementTest : public ::testing::TestWithParam<AgreementCase> {};

std::vector<int32_t> Ids(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * i * 7 + i) % 37));
  return ids;
}

std::vector<int32_t> Fed(const std::vector<int32_t>& ids) { return {ids.begin(), ids.end() - 1}; }
std::vector<int32_t> Predicted(const std::vector<int32_t>& ids) {
  return {ids.begin() + 1, ids.end()};
}

torch::Tensor ConverterScores(const TrainingModel& model, const std::vector<int32_t>& ids) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor all =
      torch::tensor(std::vector<int64_t>(ids.begin(), ids.end())).unsqueeze(0);
  const int64_t n = all.size(1) - 1;
  const torch::Tensor log_probabilities =
      model.Logits(model.Hidden({all.narrow(1, 0, n), {}, {}})).log_softmax(-1);
  return log_probabilities.gather(-1, all.narrow(1, 1, n).unsqueeze(-1))
      .flatten()
      .to(torch::kFloat64);
}

TEST_P(EngineAgreementTest, SameLogProbabilities) {
  const AgreementCase& c = GetParam();
  const std::string parent_json = c.parent();
  ModelConfig config =
      SwappedConfig(Unwrap(ParseModelConfig(parent_json, "")), {c.map, c.k, c.keep_full, {}});
  config.linear_attention->normalizer = c.normalizer;
  config.linear_attention->eps = c.normalizer == Normalizer::kClamp ? 1e-2F : 1e-6F;
  TrainingModel model(config, torch::kCPU);
  Randomize(&model, 5);

  const TemporaryDirectory directory;
  WriteModelDirectory(directory / "model", SwappedConfigJson(parent_json, config, "float32"), model,
                      "float32", "");
  const auto ids = Ids(73);
  const torch::Tensor converter = ConverterScores(model, ids);
  const torch::Tensor engine = EngineScores(directory / "model", Fed(ids), Predicted(ids));
  ASSERT_EQ(converter.sizes(), engine.sizes());
  EXPECT_GT(converter.std().item<double>(), 0.1) << "the model must not be trivial";
  EXPECT_LE(((engine - converter).norm() / converter.norm()).item<double>(), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    MapsAndArchitectures, EngineAgreementTest,
    ::testing::Values(
        AgreementCase{
            "llama_t2r", SmallLlamaJson, FeatureMapKind::kT2r, Normalizer::kClamp, 10, {}},
        AgreementCase{
            "llama_t2r_add_mixed", SmallLlamaJson, FeatureMapKind::kT2r, Normalizer::kAdd, 32, {1}},
        AgreementCase{"llama_elu", SmallLlamaJson, FeatureMapKind::kElu, Normalizer::kAdd, 0, {}},
        AgreementCase{"llama_rfa", SmallLlamaJson, FeatureMapKind::kRfa, Normalizer::kClamp, 8, {}},
        AgreementCase{"llama_hedgehog",
                      SmallLlamaJson,
                      FeatureMapKind::kHedgehog,
                      Normalizer::kAdd,
                      12,
                      {0, 2}},
        AgreementCase{
            "qwen3_t2r", SmallQwen3Json, FeatureMapKind::kT2r, Normalizer::kClamp, 8, {1}},
        AgreementCase{"gpt2_t2r", SmallGpt2Json, FeatureMapKind::kT2r, Normalizer::kClamp, 4, {}},
        AgreementCase{
            "gpt2_t2r_wide", SmallGpt2Json, FeatureMapKind::kT2r, Normalizer::kAdd, 40, {2}},
        AgreementCase{"gpt2_elu", SmallGpt2Json, FeatureMapKind::kElu, Normalizer::kClamp, 0, {}},
        AgreementCase{"gpt2_rfa", SmallGpt2Json, FeatureMapKind::kRfa, Normalizer::kClamp, 14, {}},
        AgreementCase{
            "gpt2_hedgehog", SmallGpt2Json, FeatureMapKind::kHedgehog, Normalizer::kAdd, 6, {1}},
        AgreementCase{
            "neox_t2r", SmallGptNeoxJson, FeatureMapKind::kT2r, Normalizer::kClamp, 10, {}},
        AgreementCase{"neox_elu", SmallGptNeoxJson, FeatureMapKind::kElu, Normalizer::kAdd, 0, {1}},
        AgreementCase{
            "neox_rfa", SmallGptNeoxJson, FeatureMapKind::kRfa, Normalizer::kClamp, 14, {}},
        AgreementCase{
            "neox_hedgehog", SmallGptNeoxJson, FeatureMapKind::kHedgehog, Normalizer::kAdd, 6, {2}},
        AgreementCase{"neox_sequential",
                      SmallSequentialNeoxJson,
                      FeatureMapKind::kT2r,
                      Normalizer::kClamp,
                      9,
                      {0}},
        AgreementCase{"phi3_t2r", SmallPhi3Json, FeatureMapKind::kT2r, Normalizer::kClamp, 10, {}},
        AgreementCase{"phi3_elu", SmallPhi3Json, FeatureMapKind::kElu, Normalizer::kAdd, 0, {1}},
        AgreementCase{"phi3_rfa", SmallPhi3Json, FeatureMapKind::kRfa, Normalizer::kClamp, 14, {}},
        AgreementCase{
            "phi3_hedgehog", SmallPhi3Json, FeatureMapKind::kHedgehog, Normalizer::kAdd, 6, {2}}),
    [](const auto& test) { return std::string(test.param.name); });

struct WindowedAgreement {
  const char* name;
  std::string json;
  FeatureMapKind map;
  LinearSizes sizes;
  bool rope_features;
  std::vector<LinearSizes> layers = {};
  std::optional<int64_t> sink_position = std::nullopt;
  bool decay = false;
};

class WindowedAgreementTest : public ::testing::TestWithParam<WindowedAgreement> {};

TEST_P(WindowedAgreementTest, SameLogProbabilities) {
  const WindowedAgreement& c = GetParam();
  SwapOptions options{c.map, c.sizes.features, {1}, {}};
  options.window = c.sizes.window;
  options.sinks = c.sizes.sinks;
  options.fold = c.sizes.fold;
  options.rope_features = c.rope_features;
  options.sink_position = c.sink_position;
  ModelConfig config = SwappedConfig(Unwrap(ParseModelConfig(c.json, "")), options);
  config.linear_attention->layers = c.layers;
  TrainingModel model(config, torch::kCPU);
  Randomize(&model, 5);
  {
    const torch::NoGradGuard no_grad;
    for (const auto& spec : model.parameters().specs()) {
      torch::Tensor value = model.parameters().Get(spec.name).detach();
      if (IsLogDecay(spec)) {
        if (c.decay) value.copy_(-torch::rand_like(value) * 0.1);
      } else if (spec.feature_map) {
        value.add_(torch::randn_like(value) * 0.5);
      }
    }
  }
  const TemporaryDirectory directory;
  WriteModelDirectory(directory / "model", SwappedConfigJson(c.json, config, "float32"), model,
                      "float32", "");
  const auto ids = Ids(73);
  const torch::Tensor converter = ConverterScores(model, ids);
  const torch::Tensor engine = EngineScores(directory / "model", Fed(ids), Predicted(ids));
  EXPECT_GT(converter.std().item<double>(), 0.1) << "the model must not be trivial";
  EXPECT_LE(((engine - converter).norm() / converter.norm()).item<double>(), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, WindowedAgreementTest,
    ::testing::Values(
        WindowedAgreement{
            "codebook", SmallLlamaJson(), FeatureMapKind::kCodebook, {12, 16, 2, 1}, false},
        WindowedAgreement{
            "codebook_rotated", SmallLlamaJson(), FeatureMapKind::kCodebook, {12, 16, 2, 1}, true},
        WindowedAgreement{"codebook_folds_and_decays",
                          SmallLlamaJson(),
                          FeatureMapKind::kCodebook,
                          {9, 10, 1, 4},
                          false,
                          {},
                          std::nullopt,
                          true},
        WindowedAgreement{"codebook_by_layer",
                          SmallLlamaJson(),
                          FeatureMapKind::kCodebook,
                          {20, 12, 1, 1},
                          false,
                          {{20, 6, 1, 1}, {}, {5, 12, 3, 2}},
                          9},
        WindowedAgreement{
            "codebook_alone", SmallLlamaJson(), FeatureMapKind::kCodebook, {12, 0, 0, 1}, false},
        WindowedAgreement{
            "window_alone", SmallLlamaJson(), FeatureMapKind::kNone, {0, 8, 3, 1}, true},
        WindowedAgreement{
            "gpt2_codebook", SmallGpt2Json(), FeatureMapKind::kCodebook, {12, 16, 2, 3}, false},
        WindowedAgreement{"t2r", SmallLlamaJson(), FeatureMapKind::kT2r, {10, 16, 1, 1}, true},
        WindowedAgreement{
            "hedgehog_plain", SmallLlamaJson(), FeatureMapKind::kHedgehog, {12, 16, 1, 5}, false},
        WindowedAgreement{"gpt2_elu", SmallGpt2Json(), FeatureMapKind::kElu, {8, 16, 1, 1}, true},
        WindowedAgreement{"neox_codebook",
                          SmallGptNeoxJson(),
                          FeatureMapKind::kCodebook,
                          {12, 10, 2, 4},
                          false,
                          {},
                          9,
                          true},
        WindowedAgreement{
            "neox_t2r_plain", SmallGptNeoxJson(), FeatureMapKind::kT2r, {10, 12, 1, 3}, false},
        WindowedAgreement{
            "neox_elu", SmallGptNeoxJson(), FeatureMapKind::kElu, {8, 16, 1, 1}, true},
        WindowedAgreement{
            "neox_hedgehog", SmallGptNeoxJson(), FeatureMapKind::kHedgehog, {12, 8, 1, 1}, true},
        WindowedAgreement{"phi3_codebook",
                          SmallPhi3Json(),
                          FeatureMapKind::kCodebook,
                          {12, 10, 2, 4},
                          false,
                          {},
                          9,
                          true},
        WindowedAgreement{
            "phi3_elu_plain", SmallPhi3Json(), FeatureMapKind::kElu, {8, 12, 1, 3}, false},
        WindowedAgreement{
            "phi3_hedgehog", SmallPhi3Json(), FeatureMapKind::kHedgehog, {12, 8, 1, 1}, true},
        WindowedAgreement{
            "phi3_window_alone", SmallPhi3Json(), FeatureMapKind::kNone, {0, 8, 3, 1}, true},
        WindowedAgreement{"gpt2_rfa_decays",
                          SmallGpt2Json(),
                          FeatureMapKind::kRfa,
                          {8, 16, 0, 1},
                          true,
                          {},
                          std::nullopt,
                          true},
        WindowedAgreement{"t2r_decays_without_a_window",
                          SmallLlamaJson(),
                          FeatureMapKind::kT2r,
                          {10, 0, 0, 1},
                          true,
                          {},
                          std::nullopt,
                          true},
        WindowedAgreement{"gpt2_hedgehog_decays_without_a_window",
                          SmallGpt2Json(),
                          FeatureMapKind::kHedgehog,
                          {12, 0, 0, 1},
                          true,
                          {},
                          std::nullopt,
                          true}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(EngineAgreement, SoftmaxModelsToo) {
  for (const std::string& json : {SmallLlamaJson(), SmallGpt2Json(), SmallQwen3Json(),
                                  SmallGptNeoxJson(), SmallSequentialNeoxJson(), SmallPhi3Json()}) {
    TrainingModel model(Unwrap(ParseModelConfig(json, "")), torch::kCPU);
    Randomize(&model, 6);
    const TemporaryDirectory directory;
    WriteModelDirectory(directory / "model", json, model, "float32", "");
    const auto ids = Ids(60);
    const torch::Tensor converter = ConverterScores(model, ids);
    const torch::Tensor engine = EngineScores(directory / "model", Fed(ids), Predicted(ids));
    EXPECT_LE(((engine - converter).norm() / converter.norm()).item<double>(), 1e-4);
  }
}

}  // namespace
}  // namespace t2r::convert

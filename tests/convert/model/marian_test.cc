// Encoder-decoders: the training model, and the engine on what it writes, against the float64
// reference (tests/reference/marian.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "convert/train/gradient.h"
#include "convert/train/loss.h"
#include "testing/temporary_directory.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

struct MarianCase {
  const char* name;
  std::string json;
  FeatureMapKind map;
  int k;
  std::vector<int> keep_full, keep_full_cross;
};

std::vector<MarianCase> SmoothCases() {
  return {
      {"opus_softmax", SmallOpusJson(), FeatureMapKind::kT2r, 0, {}, {}},
      {"opus_t2r", SmallOpusJson(), FeatureMapKind::kT2r, 10, {}, {}},
      {"opus_hedgehog_cross_only", SmallOpusJson(), FeatureMapKind::kHedgehog, 8, {0, 1, 2}, {1}},
      {"pre_norm_softmax", SmallPreNormJson(), FeatureMapKind::kT2r, 0, {}, {}},
      {"pre_norm_t2r_causal_only", SmallPreNormJson(), FeatureMapKind::kT2r, 12, {1}, {0, 1, 2}},
      {"pre_norm_elu", SmallPreNormJson(), FeatureMapKind::kElu, 8, {}, {2}},
  };
}

std::string Joined(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : ",") + std::to_string(id);
  return text;
}

// log p of each target id.
std::vector<double> ReferenceScores(const std::string& directory,
                                    const std::vector<int32_t>& source,
                                    const std::vector<int32_t>& target) {
  const std::string command = std::string(T2R_PYTHON " " T2R_SOURCE_DIR) +
                              "/tests/reference/marian.py score " + directory + " " +
                              Joined(source) + " " + Joined(target);
  std::FILE* pipe = popen(command.c_str(), "r");
  std::vector<double> scores;
  char line[64];
  while (pipe != nullptr && std::fgets(line, sizeof(line), pipe) != nullptr) {
    scores.push_back(std::strtod(line, nullptr));
  }
  EXPECT_EQ(pipe == nullptr ? -1 : pclose(pipe), 0) << command;
  return scores;
}

torch::Tensor Row(const std::vector<int32_t>& ids) {
  return torch::tensor(std::vector<int64_t>(ids.begin(), ids.end())).unsqueeze(0);
}

class MarianTest : public ::testing::TestWithParam<MarianCase> {
 protected:
  static ModelConfig Config() {
    const MarianCase& c = GetParam();
    const ModelConfig parent = Unwrap(ParseModelConfig(c.json, ""));
    if (c.k == 0) return parent;
    return SwappedConfig(parent, {c.map, c.k, c.keep_full, c.keep_full_cross});
  }
};

TEST_P(MarianTest, GivesTheReferencesLogProbabilities) {
  TrainingModel model(Config(), torch::kCPU);
  Randomize(&model, 5);
  const TemporaryDirectory directory;
  WriteModelDirectory(directory / "model",
                      SwappedConfigJson(GetParam().json, model.config(), "float32"), model,
                      "float32", "");
  const std::vector<int32_t> source{4, 17, 3, 28, 11, 0, 9}, target{5, 30, 7, 7, 19, 36, 2, 12, 25};
  const std::vector<double> reference = ReferenceScores(directory / "model", source, target);
  ASSERT_EQ(reference.size(), target.size());

  std::vector<int32_t> fed = target;
  fed.insert(fed.begin(), model.config().encoder_decoder->decoder_start_token_id);
  fed.pop_back();
  const torch::NoGradGuard no_grad;
  // Beside another pair and padding, which must change nothing.
  const ModelInput input{
      torch::cat({Row(fed), torch::zeros({1, 9}, torch::kInt64)}),
      torch::constant_pad_nd(torch::cat({Row(source), torch::ones({1, 7}, torch::kInt64)}), {0, 3}),
      torch::cat({torch::constant_pad_nd(torch::ones({1, 7}), {0, 3}), torch::ones({1, 10})})};
  const torch::Tensor scores = model.Logits(model.Hidden(input))
                                   .log_softmax(-1)[0]
                                   .gather(-1, Row(target).t())
                                   .flatten()
                                   .to(torch::kFloat64);
  const torch::Tensor expected = torch::tensor(reference, torch::kFloat64);
  EXPECT_GT(expected.std().item<double>(), 0.1) << "the model must not be trivial";
  EXPECT_LE(((scores - expected).norm() / expected.norm()).item<double>(), 1e-4);
  const torch::Tensor engine = EngineScores(directory / "model", fed, target, source);
  EXPECT_LE(((engine - expected).norm() / expected.norm()).item<double>(), 1e-4) << "the engine";
}

class MarianGradientTest : public MarianTest {};

// The gradient, of every map and projection on the way, against the loss at two near points.
TEST_P(MarianGradientTest, IsTheLosses) {
  TrainingModel model(Config(), torch::kCPU);
  Randomize(&model, 6);
  const Corpus corpus = SmallPairs();
  std::vector<std::unique_ptr<TrainingModel>> replicas;
  for (int i = 0; i < 2; ++i) replicas.push_back(TrainingModel::Replica(model));
  const double loss = BatchGradient(replicas, {}, corpus, PlanOf(corpus));
  EXPECT_NEAR(loss, Evaluate(model, corpus, 2, {}, nullptr, 60).nats_per_token(), 1e-5 * loss);
  const torch::Tensor gradient = replicas[0]->parameters().flat_grad().clone();
  const torch::NoGradGuard no_grad;
  torch::Tensor values = model.parameters().flat();
  const double expected = gradient.norm().item<double>();
  constexpr double kStep = 2e-3;
  values.add_(gradient, kStep / expected);
  const double above = Evaluate(model, corpus).nats_per_token();
  values.sub_(gradient, 2 * kStep / expected);
  const double below = Evaluate(model, corpus).nats_per_token();
  EXPECT_NEAR((above - below) / (2 * kStep), expected, 0.02 * expected);
}

std::string CaseName(const ::testing::TestParamInfo<MarianCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Smooth, MarianTest, ::testing::ValuesIn(SmoothCases()), CaseName);
// The features of rfa have both signs: denominators cancel, and the loss jumps from point to point
// (attention_test.cc checks its gradient).
INSTANTIATE_TEST_SUITE_P(Rough, MarianTest,
                         ::testing::Values(MarianCase{
                             "pre_norm_rfa", SmallPreNormJson(), FeatureMapKind::kRfa, 12, {}, {}}),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Smooth, MarianGradientTest, ::testing::ValuesIn(SmoothCases()), CaseName);

// Transfer of both attentions, and the encoder frozen: its tensors have no gradient.
TEST(MarianTransfer, TouchesTheMapsOfBothAttentionsOnly) {
  TrainableOptions trainable;
  trainable.freeze_encoder = true;
  TrainingModel model(SwappedConfig(Unwrap(ParseModelConfig(SmallPreNormJson(), "")),
                                    {FeatureMapKind::kHedgehog, 8, {}, {}}),
                      torch::kCPU, trainable);
  Randomize(&model, 6);
  const Corpus corpus = SmallPairs();
  std::vector<std::unique_ptr<TrainingModel>> replicas;
  replicas.push_back(TrainingModel::Replica(model));
  for (const Objective objective : {Objective::kTransfer, Objective::kLanguage}) {
    BatchObjective what;
    what.objective = objective;
    BatchGradient(replicas, what, corpus, PlanOf(corpus));
    for (const auto& spec : model.parameters().specs()) {
      const torch::Tensor& value = replicas[0]->parameters().Get(spec.name);
      const bool learns = objective == Objective::kTransfer
                              ? spec.feature_map && !spec.frozen
                              : !spec.name.starts_with("model.encoder.") && !spec.computed;
      const bool moved = value.grad().defined() && value.grad().abs().max().item<float>() > 0;
      // A key's bias shifts all scores of a query alike: softmax does not feel it.
      if (spec.name.ends_with("k_proj.bias")) continue;
      EXPECT_EQ(moved, learns) << spec.name;
    }
    replicas[0]->parameters().flat_grad().zero_();
  }
}

}  // namespace
}  // namespace t2r::convert

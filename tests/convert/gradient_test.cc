#include "convert/gradient.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "convert/loss.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

Corpus SmallCorpus() {
  Corpus corpus;
  for (int64_t i = 0; i < 6; ++i) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < 12 + 4 * i; ++t) {
      ids.push_back(static_cast<int32_t>((t * (i + 3) + i) % 37));
    }
    corpus.tokens += static_cast<int64_t>(ids.size());
    corpus.documents.push_back(ids);
  }
  return corpus;
}

BatchPlan PlanOf(const Corpus& corpus) {
  BatchPlan plan;
  plan.windows = CutWindows(corpus, 40);
  plan.length = 40;
  return plan;
}

TrainingModel SwappedModel() {
  const ModelConfig parent = Unwrap(ParseModelConfig(SmallLlamaJson(), ""));
  TrainingModel model(SwappedConfig(parent, {FeatureMapKind::kT2r, 10, {1}}), torch::kCPU);
  Randomize(&model, 3);
  return model;
}

std::vector<std::unique_ptr<TrainingModel>> Replicas(const TrainingModel& model, int count) {
  std::vector<std::unique_ptr<TrainingModel>> replicas;
  for (int i = 0; i < count; ++i) replicas.push_back(TrainingModel::Replica(model));
  return replicas;
}

TEST(BatchGradient, DoesNotDependOnTheNumberOfReplicasButForRounding) {
  const TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const BatchPlan plan = PlanOf(corpus);
  const auto one = Replicas(model, 1), three = Replicas(model, 3), many = Replicas(model, 9);
  const double loss = BatchGradient(one, {}, corpus, plan);
  EXPECT_NEAR(BatchGradient(three, {}, corpus, plan), loss, 1e-5 * loss);
  EXPECT_NEAR(BatchGradient(many, {}, corpus, plan), loss, 1e-5 * loss);
  const torch::Tensor gradient = one[0]->parameters().flat_grad();
  for (const auto* other : {&three, &many}) {
    EXPECT_LT(((*other)[0]->parameters().flat_grad() - gradient).norm().item<double>(),
              1e-4 * gradient.norm().item<double>());
    EXPECT_EQ((*other)[1]->parameters().flat_grad().abs().max().item<float>(), 0.0F);
  }
  EXPECT_EQ(model.parameters().flat_grad().abs().max().item<float>(), 0.0F)
      << "replicas have gradients of their own";
}

// The loss is the mean over all predicted tokens, padding left out: the evaluation's figure.
TEST(BatchGradient, MeanLossIsTheEvaluations) {
  const TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const double loss = BatchGradient(Replicas(model, 2), {}, corpus, PlanOf(corpus));
  const Evaluation evaluation = Evaluate(model, corpus, 50);
  EXPECT_EQ(evaluation.predictions, corpus.tokens - 6);
  EXPECT_NEAR(loss, evaluation.nats_per_token(), 1e-5);
}

// The directional derivative, against the loss at two near points.
TEST(BatchGradient, IsTheLossesDerivative) {
  TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const BatchPlan plan = PlanOf(corpus);
  const auto replicas = Replicas(model, 1);
  BatchGradient(replicas, {}, corpus, plan);
  const torch::Tensor gradient = replicas[0]->parameters().flat_grad().clone();
  const torch::NoGradGuard no_grad;
  torch::Tensor values = model.parameters().flat();
  const torch::Tensor direction = gradient / gradient.norm();
  constexpr double kStep = 2e-3;
  values.add_(direction, kStep);
  const double above = Evaluate(model, corpus).nats_per_token();
  values.sub_(direction, 2 * kStep);
  const double below = Evaluate(model, corpus).nats_per_token();
  const double expected = gradient.norm().item<double>();
  EXPECT_NEAR((above - below) / (2 * kStep), expected, 0.02 * expected);
}

TEST(BatchGradient, DistillationFromItselfHasNoGradient) {
  const TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const auto replicas = Replicas(model, 1);
  BatchObjective objective;
  objective.teacher = &model;
  objective.distill = 1.0;
  BatchGradient(replicas, objective, corpus, PlanOf(corpus));
  EXPECT_LT(replicas[0]->parameters().flat_grad().abs().max().item<float>(), 1e-5F);
}

TEST(BatchGradient, TransferTouchesFeatureMapsOnlyAndLowersItsLoss) {
  TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const BatchPlan plan = PlanOf(corpus);
  const auto replicas = Replicas(model, 2);
  BatchObjective objective;
  objective.objective = Objective::kTransfer;
  const double before = BatchGradient(replicas, objective, corpus, plan);
  for (const auto& spec : model.parameters().specs()) {
    const float largest = replicas[0]->parameters().Get(spec.name).grad().abs().max().item<float>();
    EXPECT_EQ(largest > 0, spec.feature_map) << spec.name;
  }
  const torch::NoGradGuard no_grad;
  torch::Tensor values = model.parameters().flat();
  torch::Tensor gradient = replicas[0]->parameters().flat_grad();
  values.sub_(gradient, 1e-3 / gradient.norm().item<double>());
  gradient.zero_();
  {
    const torch::AutoGradMode with_grad(true);
    EXPECT_LT(BatchGradient(replicas, objective, corpus, plan), before);
  }
}

}  // namespace
}  // namespace t2r::convert

#include "convert/train/gradient.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "convert/error.h"
#include "convert/train/loss.h"
#include "convert/train/shards.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

TrainingModel SwappedModel(uint64_t seed = 3) {
  const ModelConfig parent = Unwrap(ParseModelConfig(SmallLlamaJson(), ""));
  TrainingModel model(SwappedConfig(parent, {FeatureMapKind::kT2r, 10, {1}, {}}), torch::kCPU);
  Randomize(&model, seed);
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

// Of one rank more than there are rows, whose share is nothing.
TEST(BatchGradient, OfSharesAddsUpToThatOfTheWholeBatch) {
  const TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const BatchPlan plan = PlanOf(corpus);
  const auto whole = Replicas(model, 1), shares = Replicas(model, 2);
  const double loss = BatchGradient(whole, {}, corpus, plan);
  for (const size_t ranks : {size_t{2}, plan.windows.size() + 1}) {
    const torch::Tensor sum = shares[0]->parameters().flat_grad();
    sum.zero_();
    double added = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
      added += BatchGradient(shares, {}, corpus, plan, {rank, ranks});
    }
    EXPECT_NEAR(added, loss, 1e-5 * loss);
    const torch::Tensor gradient = whole[0]->parameters().flat_grad();
    EXPECT_LT((sum - gradient).norm().item<double>(), 1e-4 * gradient.norm().item<double>());
  }
}

// The loss is the mean over all predicted tokens, padding left out: the evaluation's figure.
TEST(BatchGradient, MeanLossIsTheEvaluations) {
  const TrainingModel model = SwappedModel();
  const Corpus corpus = SmallCorpus();
  const double loss = BatchGradient(Replicas(model, 2), {}, corpus, PlanOf(corpus));
  const Evaluation evaluation =
      Evaluate(model, corpus, /*threads=*/3, {}, nullptr, /*batch_tokens=*/50);
  EXPECT_EQ(evaluation.nats, Evaluate(model, corpus, 1, {}, nullptr, 50).nats);
  EXPECT_EQ(evaluation.predictions, corpus.tokens - 6);
  EXPECT_NEAR(loss, evaluation.nats_per_token(), 1e-5);
}

// The loss that an objective stands for, by its definition over all the batch at once.
double Loss(const TrainingModel& model, const BatchObjective& objective, const TokenBatch& batch) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor student = model.Logits(model.Hidden(batch.input)).to(torch::kFloat64);
  const torch::Tensor targets =
      torch::one_hot(batch.targets, student.size(-1)).to(torch::kFloat64) *
          (1.0 - objective.label_smoothing) +
      objective.label_smoothing / static_cast<double>(student.size(-1));
  torch::Tensor loss = -(targets * student.log_softmax(-1)).sum(-1) * (1.0 - objective.distill);
  if (objective.distill > 0) {
    const double t = objective.temperature;
    const torch::Tensor teacher =
        objective.teacher->Logits(objective.teacher->Hidden(batch.input)).to(torch::kFloat64) / t;
    const torch::Tensor divergence =
        (teacher.softmax(-1) * (teacher.log_softmax(-1) - (student / t).log_softmax(-1))).sum(-1);
    loss = loss + divergence * (objective.distill * t * t);
  }
  return (loss * batch.counted).sum().item<double>() / static_cast<double>(batch.predictions);
}

// The derivative along the gradient, against the loss at two near points.
TEST(BatchGradient, IsTheDerivativeOfEveryObjective) {
  const TrainingModel teacher = SwappedModel(9);
  const Corpus corpus = SmallCorpus();
  const BatchPlan plan = PlanOf(corpus);
  const TokenBatch batch = MakeBatch(corpus, plan, torch::kCPU);
  BatchObjective smooth, distill, warm;
  smooth.label_smoothing = 0.3;
  distill.teacher = warm.teacher = &teacher;
  distill.distill = 0.6;
  warm.distill = 1.0;
  warm.temperature = 2.5;
  for (const BatchObjective& objective : {BatchObjective(), smooth, distill, warm}) {
    TrainingModel model = SwappedModel(3);
    const auto replicas = Replicas(model, 1);
    BatchGradient(replicas, objective, corpus, plan);
    const torch::Tensor gradient = replicas[0]->parameters().flat_grad().clone();
    const torch::NoGradGuard no_grad;
    torch::Tensor values = model.parameters().flat();
    const double expected = gradient.norm().item<double>();
    const torch::Tensor direction = gradient / expected;
    constexpr double kStep = 2e-3;
    values.add_(direction, kStep);
    const double above = Loss(model, objective, batch);
    values.sub_(direction, 2 * kStep);
    const double below = Loss(model, objective, batch);
    EXPECT_NEAR((above - below) / (2 * kStep), expected, 0.02 * expected)
        << "smoothing " << objective.label_smoothing << ", distill " << objective.distill;
  }
}

// Factors of 8 significant bits: each product is within 2^-8 of its factors' sizes.
TEST(BatchGradient, OfNarrowProductsIsNearAndAddsUp) {
  const Corpus corpus = SmallCorpus();
  const BatchPlan plan = PlanOf(corpus);
  for (const int rank : {0, 3}) {
    TrainableOptions trainable;
    trainable.lora_rank = rank;
    trainable.lora_alpha = 6;
    TrainingModel model(SwappedModel().config(), torch::kCPU, trainable);
    Randomize(&model, 3);
    InitializeLora(&model, 4);
    const auto wide = Replicas(model, 1);
    BatchGradient(wide, {}, corpus, plan);
    model.SetProducts(torch::kBFloat16);
    const auto narrow = Replicas(model, 2);
    BatchGradient(narrow, {}, corpus, plan);
    const torch::Tensor expected = wide[0]->parameters().flat_grad();
    const torch::Tensor once = narrow[0]->parameters().flat_grad().clone();
    const double error = (once - expected).norm().item<double>();
    EXPECT_LT(error, 0.02 * expected.norm().item<double>()) << "LoRA of rank " << rank;
    EXPECT_GT(error, 0);
    BatchGradient(narrow, {}, corpus, plan);
    EXPECT_LT((narrow[0]->parameters().flat_grad() - 2 * once).norm().item<double>(),
              1e-5 * once.norm().item<double>());
  }
}

TEST(LearningRanges, AreWhatIsNotFrozenInEqualParts) {
  TrainableOptions trainable;
  trainable.only = TrainOnly::kAttention;
  const TrainingModel model(SwappedModel().config(), torch::kCPU, trainable);
  torch::Tensor covered = torch::zeros({model.parameters().count()});
  for (const Range& range : LearningRanges(model.parameters())) {
    for (size_t part = 0; part < 3; ++part) {
      const Range mine = range.Part(part, 3);
      EXPECT_LE(mine.count, range.count / 3 + 1);
      covered.narrow(0, mine.begin, mine.count).add_(1);
    }
  }
  int64_t at = 0;
  for (const auto& spec : model.parameters().specs()) {
    const int64_t count = model.parameters().Get(spec.name).numel();
    EXPECT_TRUE((covered.narrow(0, at, count) == (spec.frozen ? 0 : 1)).all().item<bool>())
        << spec.name;
    at += count;
  }
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

// By its definition, from a hook of softmax outputs: one layer is linear, so its input is the
// softmax model's, and the error is that of its attention's output alone.
TEST(TransferLoss, IsZeroForSoftmaxAndOneForAZeroAttention) {
  const Corpus corpus = SmallCorpus();
  const TokenBatch batch = MakeBatch(corpus, PlanOf(corpus), torch::kCPU);
  TrainingModel softmax(Unwrap(ParseModelConfig(SmallLlamaJson(), "")), torch::kCPU);
  Randomize(&softmax, 3);
  EXPECT_EQ(softmax.TransferLoss(batch.input, batch.counted), 0.0);

  TrainingModel model = SwappedModel();
  {
    // Dead features: the linear output is zero, so each of the two swapped layers is off by all.
    const torch::NoGradGuard no_grad;
    for (const int layer : {0, 2}) {
      const std::string map = "model.layers." + std::to_string(layer) + ".self_attn.feature_map.";
      torch::Tensor weight = model.parameters().Get(map + "weight");
      torch::Tensor bias = model.parameters().Get(map + "bias");
      weight.zero_();
      bias.fill_(-1.0);
    }
  }
  EXPECT_NEAR(model.TransferLoss(batch.input, batch.counted), 2.0, 1e-6);
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
    const torch::Tensor gradient = replicas[0]->parameters().Get(spec.name).grad();
    const bool moved = gradient.defined() && gradient.abs().max().item<float>() > 0;
    EXPECT_EQ(moved, spec.feature_map && !spec.frozen) << spec.name;
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

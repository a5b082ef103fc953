#include "convert/train/gradient.h"

#include <torch/torch.h>

#include <algorithm>

#include "convert/train/loss.h"
#include "convert/train/shards.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

// Gradients of part of a batch; returns its share of the mean loss. `scale` is 1 / predictions.
double Backward(const TrainingModel& model, const BatchObjective& objective, const Corpus& corpus,
                const BatchPlan& plan, double scale) {
  const TokenBatch batch = MakeBatch(corpus, plan, model.parameters().device());
  if (objective.objective == Objective::kTransfer) {
    const double share = static_cast<double>(batch.predictions) * scale;
    const Tensor loss = model.TransferLoss(batch.input, batch.counted) * share;
    loss.backward();
    return loss.item<double>();
  }
  const Tensor student = model.Logits(model.Hidden(batch.input)).log_softmax(-1);
  const Tensor cross_entropy = CrossEntropySum(student, batch) * scale;
  Tensor loss = cross_entropy;
  if (objective.label_smoothing > 0) {
    loss = cross_entropy * (1.0 - objective.label_smoothing) +
           UniformCrossEntropySum(student, batch) * (scale * objective.label_smoothing);
  }
  if (objective.distill > 0) {
    Tensor reference;
    {
      const torch::NoGradGuard no_grad;
      const TrainingModel& teacher = *objective.teacher;
      reference = teacher.Logits(teacher.Hidden(batch.input));
    }
    const double t = objective.temperature;
    const Tensor divergence =
        DivergenceSum((reference / t).log_softmax(-1), (student / t).log_softmax(-1), batch);
    loss = loss * (1.0 - objective.distill) + divergence * (scale * objective.distill * t * t);
  }
  loss.backward();
  return cross_entropy.item<double>();
}

}  // namespace

double BatchGradient(const std::vector<std::unique_ptr<TrainingModel>>& replicas,
                     const BatchObjective& objective, const Corpus& corpus, const BatchPlan& plan) {
  int64_t predictions = 0;
  for (const Window& window : plan.windows) predictions += window.length;
  const size_t rows = plan.windows.size();
  const size_t shards = std::min(rows, replicas.size());
  std::vector<double> losses(shards, 0.0);
  ForEachShard(shards, [&](size_t shard, size_t) {
    // Rows are sorted by length: deal them out, so that shards cost the same.
    BatchPlan mine{{}, plan.length, plan.source_length};
    for (size_t row = shard; row < rows; row += shards) mine.windows.push_back(plan.windows[row]);
    losses[shard] =
        Backward(*replicas[shard], objective, corpus, mine, 1.0 / static_cast<double>(predictions));
  });
  const torch::NoGradGuard no_grad;
  double loss = losses[0];
  Tensor gradient = replicas[0]->parameters().flat_grad();
  for (size_t shard = 1; shard < shards; ++shard) {
    Tensor part = replicas[shard]->parameters().flat_grad();
    gradient.add_(part);
    part.zero_();
    loss += losses[shard];
  }
  return loss;
}

}  // namespace t2r::convert

#include "convert/train/gradient.h"

#include <torch/torch.h>

#include <algorithm>

#include "convert/train/loss.h"
#include "convert/train/shards.h"
#include "convert/train/vocabulary_loss.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

// Gradients of part of a batch; returns its share of the mean loss. `scale` is 1 / predictions.
double Backward(const TrainingModel& model, const BatchObjective& objective, const Corpus& corpus,
                const BatchPlan& plan, double scale) {
  const TokenBatch batch = MakeBatch(corpus, plan, model.parameters().device());
  if (objective.objective == Objective::kTransfer) {
    const double share = static_cast<double>(batch.predictions) * scale;
    return share * model.TransferLoss(batch.input, batch.counted,
                                      [share](const Tensor& loss) { (loss * share).backward(); });
  }
  const Tensor hidden = model.Hidden(batch.input);
  Tensor teacher_hidden;
  if (objective.distill > 0) {
    const torch::NoGradGuard no_grad;
    teacher_hidden = objective.teacher->Hidden(batch.input);
  }
  Tensor gradient;
  const double nats =
      VocabularyLoss(model, objective, batch, hidden, teacher_hidden, scale, &gradient);
  hidden.backward(gradient);
  return nats * scale;
}

}  // namespace

double BatchGradient(const std::vector<std::unique_ptr<TrainingModel>>& replicas,
                     const BatchObjective& objective, const Corpus& corpus, const BatchPlan& plan,
                     BatchShare share) {
  int64_t predictions = 0;
  for (const Window& window : plan.windows) predictions += window.length;
  // Rows are sorted by length: deal them out, so that shares and shards cost the same.
  std::vector<Window> windows;
  for (size_t row = share.rank; row < plan.windows.size(); row += share.ranks) {
    windows.push_back(plan.windows[row]);
  }
  const size_t rows = windows.size();
  if (rows == 0) return 0;
  const size_t shards = std::min(rows, replicas.size());
  std::vector<double> losses(shards, 0.0);
  // Of fewer rows than replicas, as with one long window, operators share the threads.
  ForEachShard(rows, static_cast<int>(replicas.size()), [&](size_t shard, size_t) {
    BatchPlan mine{{}, plan.length, plan.source_length};
    for (size_t row = shard; row < rows; row += shards) mine.windows.push_back(windows[row]);
    losses[shard] =
        Backward(*replicas[shard], objective, corpus, mine, 1.0 / static_cast<double>(predictions));
  });
  double loss = losses[0];
  for (size_t shard = 1; shard < shards; ++shard) loss += losses[shard];
  if (shards == 1) return loss;
  const std::vector<Range> ranges = LearningRanges(replicas[0]->parameters());
  ForEachShard(shards, static_cast<int>(shards), [&](size_t part, size_t parts) {
    const torch::NoGradGuard no_grad;
    for (const Range& range : ranges) {
      const Range mine = range.Part(part, parts);
      Tensor sum = replicas[0]->parameters().flat_grad().narrow(0, mine.begin, mine.count);
      for (size_t shard = 1; shard < shards; ++shard) {
        Tensor other = replicas[shard]->parameters().flat_grad().narrow(0, mine.begin, mine.count);
        sum.add_(other);
        other.zero_();
      }
    }
  });
  return loss;
}

}  // namespace t2r::convert

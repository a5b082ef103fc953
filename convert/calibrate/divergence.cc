#include "convert/calibrate/divergence.h"

#include <torch/torch.h>

#include <algorithm>
#include <utility>

#include "convert/calibrate/calibration.h"
#include "convert/train/loss.h"
#include "convert/train/shards.h"

namespace t2r::convert {

using torch::Tensor;

Divergence::Divergence(const TrainingModel& parent, const Corpus& text, int threads)
    : parent_(parent), text_(text), threads_(threads), plans_(WholeDocuments(text, 1024)) {
  hidden_.resize(plans_.size());
  ForEachPlan([&](size_t p, const TokenBatch& batch) { hidden_[p] = parent.Hidden(batch.input); });
}

void Divergence::ForEachPlan(const std::function<void(size_t p, TokenBatch batch)>& fn) const {
  ForEachShard(plans_.size(), threads_, [&](size_t shard, size_t shards) {
    const torch::NoGradGuard no_grad;
    for (size_t p = shard; p < plans_.size(); p += shards) {
      fn(p, MakeBatch(text_, plans_[p], parent_.parameters().device()));
    }
  });
}

void Divergence::Advance(LayerStart* start) const {
  std::vector<Tensor> next(plans_.size());
  ForEachPlan([&](size_t p, TokenBatch batch) {
    if (!start->entering.empty()) batch.input.entering = start->entering[p];
    batch.input.first_layer = start->layer;
    batch.input.end_layer = start->layer + 1;
    next[p] = parent_.Hidden(batch.input);
  });
  *start = {start->layer + 1, std::move(next)};
}

double Divergence::Of(const TrainingModel& model, const LayerStart& from) const {
  constexpr int64_t kBlockLogits = int64_t{1} << 24;
  const int64_t block = std::max<int64_t>(16, kBlockLogits / model.config().vocab_size);
  std::vector<double> sums(plans_.size(), 0.0);
  std::vector<int64_t> predictions(plans_.size(), 0);
  const torch::NoGradGuard no_grad;
  const Tensor parent_table = parent_.Narrow(parent_.OutputTable());
  const Tensor table = model.Narrow(model.OutputTable());
  ForEachPlan([&](size_t p, TokenBatch batch) {
    if (!from.entering.empty()) batch.input.entering = from.entering[p];
    batch.input.first_layer = from.layer;
    const Tensor counted = batch.counted.flatten().nonzero().squeeze(1);
    const Tensor own = model.Hidden(batch.input).flatten(0, 1).index_select(0, counted);
    const Tensor parents = hidden_[p].flatten(0, 1).index_select(0, counted);
    for (int64_t begin = 0; begin < own.size(0); begin += block) {
      const int64_t rows = std::min(block, own.size(0) - begin);
      const Tensor reference =
          parent_.LogitsBy(parent_table, parents.narrow(0, begin, rows)).log_softmax(-1);
      Tensor difference = model.LogitsBy(table, own.narrow(0, begin, rows)).log_softmax(-1);
      difference.neg_().add_(reference);
      sums[p] += (reference.exp() * difference).sum(torch::kFloat64).item<double>();
    }
    predictions[p] = own.size(0);
  });
  double sum = 0;
  int64_t count = 0;
  for (size_t p = 0; p < plans_.size(); ++p) {
    sum += sums[p];
    count += predictions[p];
  }
  return sum / static_cast<double>(std::max<int64_t>(1, count));
}

}  // namespace t2r::convert

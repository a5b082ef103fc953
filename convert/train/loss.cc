#include "convert/train/loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>
#include <vector>

#include "convert/train/shards.h"

namespace t2r::convert {

using torch::Tensor;

TokenBatch MakeBatch(const Corpus& corpus, const BatchPlan& plan, torch::Device device) {
  const auto rows = static_cast<int64_t>(plan.windows.size());
  const bool pairs = corpus.pairs();
  TokenBatch batch;
  Tensor ids = torch::zeros({rows, plan.length}, torch::kInt64);
  Tensor targets = torch::zeros({rows, plan.length}, torch::kInt64);
  Tensor counted = torch::zeros({rows, plan.length}, torch::kFloat32);
  Tensor source = torch::zeros({rows, pairs ? plan.source_length : 0}, torch::kInt64);
  Tensor source_counted = torch::zeros({rows, pairs ? plan.source_length : 0}, torch::kFloat32);
  for (int64_t row = 0; row < rows; ++row) {
    const Window& window = plan.windows[static_cast<size_t>(row)];
    const auto document = static_cast<size_t>(window.document);
    const int32_t* from = corpus.documents[document].data() + window.start;
    std::copy_n(from, window.length, ids.data_ptr<int64_t>() + row * plan.length);
    std::copy_n(from + 1, window.length, targets.data_ptr<int64_t>() + row * plan.length);
    std::fill_n(counted.data_ptr<float>() + row * plan.length, window.length, 1.0F);
    batch.predictions += window.length;
    if (!pairs) continue;
    std::copy_n(corpus.sources[document].data(), window.source_length,
                source.data_ptr<int64_t>() + row * plan.source_length);
    std::fill_n(source_counted.data_ptr<float>() + row * plan.source_length, window.source_length,
                1.0F);
  }
  batch.input.ids = ids.to(device);
  if (pairs) {
    batch.input.source = source.to(device);
    batch.input.source_counted = source_counted.to(device);
  }
  batch.targets = targets.to(device);
  batch.counted = counted.to(device);
  return batch;
}

double Evaluation::perplexity() const { return std::exp(nats_per_token()); }

std::string Describe(const Evaluation& evaluation) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "%.5f nats/token, perplexity %.4f over %lld predicted tokens of %lld documents",
                evaluation.nats_per_token(), evaluation.perplexity(),
                static_cast<long long>(evaluation.predictions),
                static_cast<long long>(evaluation.documents));
  return text;
}

namespace {

// Batches of documents of similar length, whole, up to `batch_tokens` positions at once.
std::vector<BatchPlan> PlanEvaluation(const Corpus& corpus, int64_t batch_tokens) {
  std::vector<Window> windows = CutWindows(corpus, std::numeric_limits<int64_t>::max());
  std::stable_sort(windows.begin(), windows.end(), [](const Window& a, const Window& b) {
    return std::pair(a.length, a.source_length) > std::pair(b.length, b.source_length);
  });
  std::vector<BatchPlan> plans;
  for (size_t begin = 0; begin < windows.size();) {
    BatchPlan& plan = plans.emplace_back();
    plan.length = windows[begin].length;
    for (; begin < windows.size(); ++begin) {
      const int64_t source_length = std::max(plan.source_length, windows[begin].source_length);
      const auto rows = static_cast<int64_t>(plan.windows.size()) + 1;
      if (rows > 1 && rows * (plan.length + source_length) > batch_tokens) break;
      plan.windows.push_back(windows[begin]);
      plan.source_length = source_length;
    }
  }
  return plans;
}

// Sum of −log p over a batch.
double BatchNats(const TrainingModel& model, const Corpus& corpus, const BatchPlan& plan) {
  const torch::NoGradGuard no_grad;
  const TokenBatch batch = MakeBatch(corpus, plan, model.parameters().device());
  const Tensor log_probabilities = model.Logits(model.Hidden(batch.input)).log_softmax(-1);
  const Tensor chosen =
      log_probabilities.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1).to(torch::kFloat64);
  return -(chosen * batch.counted).sum().item<double>();
}

}  // namespace

Evaluation Evaluate(const TrainingModel& model, const Corpus& corpus, int threads,
                    int64_t batch_tokens) {
  const std::vector<BatchPlan> plans = PlanEvaluation(corpus, batch_tokens);
  std::vector<double> nats(plans.size());
  ForEachShard(std::min(plans.size(), static_cast<size_t>(std::max(1, threads))),
               [&](size_t shard, size_t shards) {
                 for (size_t i = shard; i < plans.size(); i += shards) {
                   nats[i] = BatchNats(model, corpus, plans[i]);
                 }
               });
  Evaluation result;
  for (size_t i = 0; i < plans.size(); ++i) {
    result.nats += nats[i];
    for (const Window& window : plans[i].windows) result.predictions += window.length;
  }
  result.documents = static_cast<int64_t>(corpus.documents.size());
  return result;
}

}  // namespace t2r::convert

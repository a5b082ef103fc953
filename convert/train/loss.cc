#include "convert/train/loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
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
    std::fill_n(counted.data_ptr<float>() + row * plan.length + window.context,
                window.length - window.context, 1.0F);
    batch.predictions += window.length - window.context;
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

namespace {

// Batches of windows of similar length, up to `batch_tokens` positions at once.
std::vector<BatchPlan> PlanEvaluation(std::vector<Window> windows, int64_t batch_tokens) {
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

// Sum of −log p over a batch. Logits are made for so many positions at once: over a vocabulary of
// 49,152, a batch's would take gigabytes.
double BatchNats(const TrainingModel& model, const Corpus& corpus, const BatchPlan& plan) {
  constexpr int64_t kLogitRows = 512;
  const torch::NoGradGuard no_grad;
  const TokenBatch batch = MakeBatch(corpus, plan, model.parameters().device());
  const Tensor hidden = model.Hidden(batch.input).flatten(0, 1);
  const Tensor targets = batch.targets.flatten(), counted = batch.counted.flatten();
  double nats = 0;
  for (int64_t row = 0; row < hidden.size(0); row += kLogitRows) {
    const int64_t end = std::min(row + kLogitRows, hidden.size(0));
    const Tensor log_probabilities = model.Logits(hidden.slice(0, row, end)).log_softmax(-1);
    const Tensor chosen = log_probabilities.gather(-1, targets.slice(0, row, end).unsqueeze(-1))
                              .squeeze(-1)
                              .to(torch::kFloat64);
    nats -= (chosen * counted.slice(0, row, end)).sum().item<double>();
  }
  return nats;
}

}  // namespace

Evaluation Evaluate(const TrainingModel& model, const Corpus& corpus, int threads,
                    const WindowOptions& windows, Progress* progress, int64_t batch_tokens) {
  constexpr double kMoment = 2;  // seconds
  const std::vector<BatchPlan> plans =
      PlanEvaluation(CutEvaluation(corpus, WithDefaults(windows, model.config())), batch_tokens);
  std::vector<double> nats(plans.size());
  const auto start = std::chrono::steady_clock::now();
  ForEachShard(plans.size(), threads, [&](size_t shard, size_t shards) {
    for (size_t i = shard; i < plans.size(); i += shards) {
      nats[i] = BatchNats(model, corpus, plans[i]);
      if (shard > 0 || progress == nullptr) continue;  // one thread's share stands for all
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      if (seconds.count() < kMoment) continue;
      const double share = static_cast<double>(std::min(i + shards, plans.size())) /
                           static_cast<double>(plans.size());
      progress->Show(share, "evaluating", seconds.count() * (1 - share) / share);
    }
  });
  Evaluation result;
  for (size_t i = 0; i < plans.size(); ++i) {
    result.nats += nats[i];
    for (const Window& window : plans[i].windows) {
      result.predictions += window.length - window.context;
    }
  }
  result.documents = static_cast<int64_t>(corpus.documents.size());
  return result;
}

}  // namespace t2r::convert

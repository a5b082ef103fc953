#include "convert/loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace t2r::convert {

using torch::Tensor;

TokenBatch MakeBatch(const Corpus& corpus, const std::vector<Window>& windows, int64_t length,
                     torch::Device device) {
  const auto rows = static_cast<int64_t>(windows.size());
  TokenBatch batch;
  Tensor ids = torch::zeros({rows, length}, torch::kInt64);
  Tensor targets = torch::zeros({rows, length}, torch::kInt64);
  Tensor counted = torch::zeros({rows, length}, torch::kFloat32);
  for (int64_t row = 0; row < rows; ++row) {
    const Window& window = windows[static_cast<size_t>(row)];
    const int32_t* source =
        corpus.documents[static_cast<size_t>(window.document)].data() + window.start;
    int64_t* to_ids = ids.data_ptr<int64_t>() + row * length;
    int64_t* to_targets = targets.data_ptr<int64_t>() + row * length;
    std::copy_n(source, window.length, to_ids);
    std::copy_n(source + 1, window.length, to_targets);
    std::fill_n(counted.data_ptr<float>() + row * length, window.length, 1.0F);
    batch.predictions += window.length;
  }
  batch.ids = ids.to(device);
  batch.targets = targets.to(device);
  batch.counted = counted.to(device);
  return batch;
}

Tensor CrossEntropySum(const Tensor& log_probabilities, const TokenBatch& batch) {
  const Tensor chosen = log_probabilities.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1);
  return -(chosen * batch.counted).sum();
}

Tensor DivergenceSum(const Tensor& teacher, const Tensor& student, const TokenBatch& batch) {
  const Tensor divergence = (teacher.exp() * (teacher - student)).sum(-1);
  return (divergence * batch.counted).sum();
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

Evaluation Evaluate(const TrainingModel& model, const Corpus& corpus, int64_t batch_tokens) {
  const torch::NoGradGuard no_grad;
  std::vector<Window> windows;
  for (size_t i = 0; i < corpus.documents.size(); ++i) {
    windows.push_back(
        {static_cast<int32_t>(i), 0, static_cast<int64_t>(corpus.documents[i].size()) - 1});
  }
  std::stable_sort(windows.begin(), windows.end(),
                   [](const Window& a, const Window& b) { return a.length > b.length; });
  Evaluation result;
  for (size_t begin = 0; begin < windows.size();) {
    const int64_t length = windows[begin].length;
    const auto rows = static_cast<size_t>(std::max<int64_t>(1, batch_tokens / length));
    const size_t end = std::min(windows.size(), begin + rows);
    const TokenBatch batch = MakeBatch(corpus,
                                       {windows.begin() + static_cast<std::ptrdiff_t>(begin),
                                        windows.begin() + static_cast<std::ptrdiff_t>(end)},
                                       length, model.parameters().device());
    const Tensor log_probabilities = model.Logits(model.Hidden(batch.ids)).log_softmax(-1);
    const Tensor chosen =
        log_probabilities.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1).to(torch::kFloat64);
    result.nats -= (chosen * batch.counted).sum().item<double>();
    result.predictions += batch.predictions;
    begin = end;
  }
  result.documents = static_cast<int64_t>(corpus.documents.size());
  return result;
}

}  // namespace t2r::convert

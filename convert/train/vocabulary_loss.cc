#include "convert/train/vocabulary_loss.h"

#include <torch/torch.h>

#include <algorithm>

namespace t2r::convert {

using torch::Tensor;

double VocabularyLoss(const TrainingModel& model, const BatchObjective& objective,
                      const TokenBatch& batch, const Tensor& hidden, const Tensor& teacher_hidden,
                      double scale, Tensor* hidden_gradient) {
  // Blocks of 64 MB of logits: larger ones would save no more passes over the output matrix.
  constexpr int64_t kBlockLogits = int64_t{1} << 24;
  const torch::NoGradGuard no_grad;
  const int64_t width = hidden.size(-1), vocabulary = model.config().vocab_size;
  const Tensor rows = batch.counted.flatten().nonzero().squeeze(1);
  const Tensor states = hidden.detach().reshape({-1, width}).index_select(0, rows);
  const Tensor targets = batch.targets.flatten().index_select(0, rows).unsqueeze(1);
  Tensor teacher_states;
  if (teacher_hidden.defined()) {
    teacher_states = teacher_hidden.reshape({-1, width}).index_select(0, rows);
  }
  const double distill = objective.distill;
  const Tensor& table = model.OutputTable();
  const Tensor narrow_table = model.Narrow(table);
  Tensor teacher_table;
  if (distill > 0) {
    teacher_table = objective.teacher->Narrow(objective.teacher->OutputTable());
  }
  const double smoothing = objective.label_smoothing, t = objective.temperature;
  const double language = scale * (1 - distill);
  Tensor gradients = torch::empty_like(states);
  double nats = 0;
  const int64_t block = std::max<int64_t>(16, kBlockLogits / vocabulary);
  for (int64_t begin = 0; begin < states.size(0); begin += block) {
    const int64_t count = std::min(block, states.size(0) - begin);
    const Tensor own = states.narrow(0, begin, count);
    const Tensor target = targets.narrow(0, begin, count);
    const Tensor logits = model.LogitsBy(narrow_table, own);
    Tensor gradient = logits.log_softmax(-1);
    nats -= gradient.gather(-1, target).sum(torch::kFloat64).item<double>();
    gradient.exp_();
    Tensor flat;  // the student's distribution, flattened
    if (distill > 0) flat = t == 1 ? gradient : (logits / t).softmax(-1);
    // Cross entropy: (1 − W)(p − targets); divergence at temperature t, times t²: W t (p_t − q_t).
    if (distill > 0) {
      const Tensor reference =
          (objective.teacher->LogitsBy(teacher_table, teacher_states.narrow(0, begin, count)) / t)
              .softmax(-1);
      const Tensor divergence = (flat - reference).mul_(scale * distill * t);
      gradient = gradient.mul(language).add_(divergence);
    } else {
      gradient.mul_(language);
    }
    gradient.scatter_add_(-1, target,
                          torch::full({count, 1}, -language * (1 - smoothing), own.options()));
    if (smoothing > 0) gradient.sub_(language * smoothing / static_cast<double>(vocabulary));
    const Tensor narrow = model.Narrow(gradient);
    gradients.narrow(0, begin, count).copy_(torch::mm(narrow, narrow_table));
    if (table.requires_grad()) {
      Tensor sum = table.grad();
      if (narrow.dtype() == torch::kFloat32) {
        sum.addmm_(narrow.t(), own);
      } else {
        sum.add_(torch::mm(narrow.t(), model.Narrow(own)));
      }
    }
  }
  *hidden_gradient = torch::zeros({hidden.numel() / width, width}, hidden.options())
                         .index_copy_(0, rows, gradients)
                         .view(hidden.sizes());
  return nats;
}

}  // namespace t2r::convert

// The loss over the vocabulary and its gradient at once, in blocks of tokens: no matrix of all
// tokens' probabilities is kept.
#pragma once

#include <torch/types.h>

#include "convert/model/model.h"
#include "convert/train/gradient.h"
#include "convert/train/loss.h"

namespace t2r::convert {

// Sum over the counted targets of −log p(target), in nats. `hidden` [B, T, D] are the model's
// hidden states, `teacher_hidden` the teacher's (undefined without distillation). Writes the
// gradient of `scale` times the objective's sum by `hidden` into *hidden_gradient [B, T, D], and
// adds that by the output matrix to its gradient, where it learns.
double VocabularyLoss(const TrainingModel& model, const BatchObjective& objective,
                      const TokenBatch& batch, const torch::Tensor& hidden,
                      const torch::Tensor& teacher_hidden, double scale,
                      torch::Tensor* hidden_gradient);

}  // namespace t2r::convert

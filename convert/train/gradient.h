// The gradient of one batch, over replicas that share a model's values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/model/model.h"

namespace t2r::convert {

enum class Objective : uint8_t {
  kLanguage,  // cross entropy, with the teacher's distribution beside it where distill > 0
  kTransfer,  // TrainingModel::TransferLoss
};

struct BatchObjective {
  Objective objective = Objective::kLanguage;
  const TrainingModel* teacher = nullptr;  // needed where distill > 0
  double distill = 0;                      // weight of the divergence from the teacher
  // Both distributions are flattened by it first, and the divergence counts its square (Hinton et
  // al. 2015), so that its gradient keeps its size.
  double temperature = 1;
  // Weight of the uniform distribution in the targets of the cross entropy.
  double label_smoothing = 0;
};

// A process's part of a batch: the rows rank, rank + ranks, rank + 2 ranks and so on.
struct BatchShare {
  size_t rank = 0, ranks = 1;
};

// Deals the plan's rows out over the replicas, one thread each, and adds the gradient of the mean
// loss to replicas[0]'s flat_grad; the others' are zero afterwards. Returns the mean loss: cross
// entropy in nats/token (without smoothing), or the transfer loss. Of a share of the rows, gradient
// and loss are what it adds to those of all. Sums are taken in a fixed order: the same replicas
// count gives the same bits.
double BatchGradient(const std::vector<std::unique_ptr<TrainingModel>>& replicas,
                     const BatchObjective& objective, const Corpus& corpus, const BatchPlan& plan,
                     BatchShare share = {});

}  // namespace t2r::convert

// How far a model's predictions are from its parent's.
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/model/model.h"
#include "convert/train/loss.h"

namespace t2r::convert {

// What a parent has computed of a text before one of its layers.
struct LayerStart {
  int layer = 0;
  std::vector<torch::Tensor> entering;  // the states that enter it, of each window; none: nothing
};

// The mean of KL(parent ‖ model) over the predicted tokens of a text, in nats a token. Where the
// text is what the parent expects, this is the loss that a model adds to the parent's. It has none
// of the noise of a difference of two losses on a few excerpts: every token counts by what its
// whole distribution moved, never below 0.
class Divergence {
 public:
  // Runs `parent` once over `text`, each document as one window. Both must outlive it; the
  // parent's products must stay as they are.
  Divergence(const TrainingModel& parent, const Corpus& text, int threads);

  // The same for any number of threads, but for rounding where these are more than the documents
  // and operators share them. `model` has the parent's vocabulary; it is the parent up to
  // `from`, and is computed from there on. Starts behind the first layer are for decoder-only
  // models.
  double Of(const TrainingModel& model, const LayerStart& from = {}) const;
  // Runs the parent's layer at `start`, which then is the next one's.
  void Advance(LayerStart* start) const;

 private:
  // Calls fn(p, what is read of plan p) for each plan without gradients, on threads_ threads.
  void ForEachPlan(const std::function<void(size_t p, TokenBatch batch)>& fn) const;

  const TrainingModel& parent_;
  const Corpus& text_;
  int threads_;
  std::vector<BatchPlan> plans_;
  std::vector<torch::Tensor> hidden_;  // the parent's last hidden states of each plan
};

}  // namespace t2r::convert

// Trains a model: AdamW, warm-up and cosine, gradient clipping, optional distillation, checkpoints.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "convert/corpus.h"
#include "convert/loss.h"
#include "convert/model.h"
#include "convert/progress.h"

namespace t2r::convert {

struct TrainOptions {
  // The budget: exactly one is positive. With minutes the schedule follows the clock, so only runs
  // of a budget in steps or tokens repeat bit for bit.
  int64_t steps = 0;
  int64_t tokens = 0;  // predicted tokens
  double minutes = 0;  // of training, evaluations left out

  double learning_rate = 2e-3;  // peak
  double final_share = 0.02;    // of the peak, at the end of the cosine
  double warmup_share = 0.03;   // of the budget
  double weight_decay = 0.01;   // on matrices only
  double clip_norm = 1.0;       // of the whole gradient; 0: off
  double distill = 0;           // weight of KL(teacher ‖ student); 1 − it: of the cross entropy
  int64_t window = 512;         // predictions a window
  int64_t batch_tokens = 8192;  // positions a step, padding included
  uint64_t seed = 1;
  int threads = 2;               // replicas, each with its share of a batch's rows
  int64_t log_every = 20;        // steps between progress lines
  int64_t evaluate_every = 0;    // steps; 0: every tenth of the budget
  std::string checkpoint;        // file; empty: none
  int64_t checkpoint_every = 0;  // steps; 0: about once a minute
  std::string fingerprint;       // what must be equal for a checkpoint to go on
};

// Where a run stands; all of it is in the checkpoint.
struct TrainState {
  int64_t step = 0;
  int64_t epoch = 0;
  int64_t batch = 0;  // next batch of the epoch
  int64_t tokens = 0;
  double seconds = 0;         // of training
  double reference_nats = 0;  // the caller's to keep over a resume: parent's nats/token
  double initial_nats = 0;    // and those before the first step
};

class Trainer {
 public:
  // `teacher` may be null without distillation. All must outlive the trainer. Throws ConvertError
  // on options that cannot be.
  Trainer(TrainingModel* model, const TrainingModel* teacher, const Corpus& train,
          TrainOptions options);

  // Goes on from options.checkpoint if that file exists; false if not. Throws ConvertError where it
  // belongs to another run (fingerprint) or is damaged.
  bool Resume();

  // Trains to the end of the budget. `evaluate` is called now and then with a caption; may be
  // empty.
  void Run(Progress* progress, const std::function<void(const std::string&)>& evaluate);

  TrainState& state() { return state_; }
  void SaveCheckpoint() const;

 private:
  double Fraction() const;  // of the budget that is spent
  double LearningRate() const;
  // One optimizer step over the next batch; returns cross entropy in nats/token.
  double Step();
  void Update(double learning_rate);

  TrainingModel* model_;
  const TrainingModel* teacher_;
  const Corpus& train_;
  TrainOptions options_;
  TrainState state_;
  std::vector<std::unique_ptr<TrainingModel>> replicas_;  // share the model's values
  torch::Tensor moment1_, moment2_, decay_;
  std::vector<Window> windows_;
  std::vector<BatchPlan> epoch_;
  int64_t planned_epoch_ = -1;
};

}  // namespace t2r::convert

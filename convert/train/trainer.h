// Trains a model: AdamW, warm-up and cosine, gradient clipping, checkpoints; for a swap, attention
// transfer and distillation.
//
// Attention transfer comes first where asked for: for its share of the budget only feature maps
// learn, each layer's to give the softmax attention's output from the same queries, keys and values
// (TrainingModel::TransferLoss). Then everything learns, with fresh moments.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/devices/device_group.h"
#include "convert/model/model.h"
#include "convert/progress.h"
#include "convert/train/loss.h"
#include "convert/train/train_options.h"

namespace t2r::convert {

// Where a run stands; all of it is in the checkpoint.
struct TrainState {
  int64_t step = 0;
  int64_t epoch = 0;
  int64_t batch = 0;  // next batch of the epoch
  int64_t tokens = 0;
  int64_t language_step = -1;  // step at which the attention transfer ended; -1: it has not
  double seconds = 0;          // of training
  double reference_nats = 0;   // the caller's to keep over a resume: parent's nats/token
  double initial_nats = 0;     // and those before the first step
};

class Trainer {
 public:
  // `teacher` may be null without distillation. All must outlive the trainer. Throws ConvertError
  // on options that cannot be. Every process of `group` has its own, alike; each computes its share
  // of every batch, and all have the same values after every step.
  Trainer(DeviceGroup* group, TrainingModel* model, const TrainingModel* teacher,
          const Corpus& train, TrainOptions options);

  // Goes on from options.checkpoint if that file exists; false if not. Throws ConvertError where it
  // belongs to another run (fingerprint) or is damaged.
  bool Resume();

  // Trains to the end of the budget. `evaluate` is called now and then with a caption, on the first
  // process alone, which also writes the checkpoints; may be empty.
  void Run(Progress* progress, const std::function<void(const std::string&)>& evaluate);

  TrainState& state() { return state_; }
  // Predicted tokens a second of processor time, all threads together, over the steps of this
  // process.
  double TokensPerProcessorSecond() const;
  void SaveCheckpoint() const;

 private:
  // Neighbours in the flat buffers that are updated alike.
  struct Segment {
    Range range;
    bool decay = false;        // weight decay applies
    bool feature_map = false;  // learns at the new parameters' rate, and in the transfer
    bool log_decay = false;
  };

  double Fraction() const;  // of the budget that is spent
  // Share of the peak.
  double Schedule() const;
  bool transferring() const { return state_.language_step < 0; }
  // One optimizer step over the next batch; returns its mean loss.
  double Step();
  void Update();
  // Whether it is trained in the present phase.
  bool Learns(const Segment& segment) const { return segment.feature_map || !transferring(); }

  DeviceGroup* group_;
  TrainingModel* model_;
  const TrainingModel* teacher_;
  const Corpus& train_;
  TrainOptions options_;
  TrainState state_;
  int64_t first_tokens_ = 0;  // state_.tokens before this process's first step
  double processor_seconds_ = 0;
  std::vector<std::unique_ptr<TrainingModel>> replicas_;  // share the model's values
  torch::Tensor moment1_, moment2_;
  std::vector<Segment> segments_;  // of all that learns
  std::vector<Window> windows_;
  std::vector<BatchPlan> epoch_;
  int64_t planned_epoch_ = -1;
};

}  // namespace t2r::convert

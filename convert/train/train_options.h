// How a model is trained. Plain data; no LibTorch.
#pragma once

#include <cstdint>
#include <string>

namespace t2r::convert {

struct TrainOptions {
  // The budget: exactly one is positive. With minutes the schedule follows the clock, so only runs
  // of a budget in steps or tokens repeat bit for bit.
  int64_t steps = 0;
  int64_t tokens = 0;  // predicted tokens
  double minutes = 0;  // of training, evaluations left out

  double learning_rate = 2e-3;      // peak
  double new_learning_rate = 0;     // of what a swap added; 0: the same
  double final_share = 0.02;        // of the peak, at the end of the cosine
  std::string schedule = "cosine";  // after the warm-up; or inverse-sqrt: peak · √(warm-up / budget
                                    // spent), so warmup_share must be positive
  double warmup_share = 0.03;  // of the budget
  double weight_decay = 0.01;  // on matrices only
  double clip_norm = 1.0;      // of the whole gradient; 0: off
  double distill = 0;          // weight of KL(teacher ‖ student); 1 − it: of the cross entropy
  double distill_temperature = 1;  // of both distributions in the KL (gradient.h)
  double label_smoothing = 0;      // weight of the uniform distribution in the targets
  double transfer_share =
      0;  // of the budget: attention transfer first (trainer.h); 1: nothing else
  double transfer_rate = 1e-2;  // learning rate of the transfer
  int64_t window = 512;         // predictions a window
  int64_t batch_tokens = 8192;  // positions a step, padding included
  uint64_t seed = 1;
  int threads = 2;  // replicas, each with its share of a batch's rows; of fewer rows, operators'
  int devices = 1;  // processes that train together, each with replicas (DeviceGroup)
  int64_t log_every = 20;        // steps between progress lines
  int64_t evaluate_every = 0;    // steps; 0: every tenth of the budget
  std::string checkpoint;        // file; empty: none
  int64_t checkpoint_every = 0;  // steps; 0: about once a minute
  std::string fingerprint;       // what must be equal for a checkpoint to go on
};

}  // namespace t2r::convert

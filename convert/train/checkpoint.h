// A training run's state on disk, so that it goes on after a crash as if nothing had happened.
#pragma once

#include <torch/types.h>

#include <string>

#include "convert/train/trainer.h"

namespace t2r::convert {

// The run's tensors, flat (Parameters::flat and the optimizer's moments).
struct CheckpointTensors {
  torch::Tensor values, moment1, moment2;
};

// Written beside `path`, synced and renamed: the file is always whole.
void SaveCheckpoint(const std::string& path, const std::string& fingerprint,
                    const CheckpointTensors& tensors, const TrainState& state);

// Copies into `tensors` in place. Throws ConvertError where the file is damaged, or belongs to a
// run with another fingerprint (other flags, data or model).
void LoadCheckpoint(const std::string& path, const std::string& fingerprint,
                    const CheckpointTensors& tensors, TrainState* state);

}  // namespace t2r::convert

// The step of AdamW (adamw.h) in operations of LibTorch, for tensors wherever they are.
#pragma once

#include <torch/types.h>

#include "convert/train/adamw.h"

namespace t2r::convert {

// One step of float32 tensors [count] of one device, in place; the gradient is 0 afterwards. The
// caller holds a torch::NoGradGuard.
void AdamwUpdateTensors(const AdamwStep& step, torch::Tensor values, torch::Tensor gradient,
                        torch::Tensor moment1, torch::Tensor moment2);

}  // namespace t2r::convert

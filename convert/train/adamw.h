// AdamW (Loshchilov and Hutter 2019) over flat buffers, in one pass. No LibTorch.
#pragma once

#include <cstdint>

namespace t2r::convert {

struct AdamwStep {
  float beta1 = 0.9F, beta2 = 0.98F, eps = 1e-8F;
  float rate = 0;         // learning rate
  float decay = 0;        // weight decay; taken at this rate, before the step
  float correction1 = 1;  // 1 − β1^t and 1 − β2^t of step t, which counts from 1
  float correction2 = 1;
  float scale = 1;  // of the gradient, for clipping
  float most = 0;   // values do not exceed it, where `bounded`
  bool bounded = false;
};

// One step of `count` values; the gradient is 0 afterwards.
void AdamwUpdate(const AdamwStep& step, int64_t count, float* values, float* gradient,
                 float* moment1, float* moment2);

}  // namespace t2r::convert

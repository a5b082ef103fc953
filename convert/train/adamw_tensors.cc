#include "convert/train/adamw_tensors.h"

#include <torch/torch.h>

namespace t2r::convert {

void AdamwUpdateTensors(const AdamwStep& step, torch::Tensor values, torch::Tensor gradient,
                        torch::Tensor moment1, torch::Tensor moment2) {
  gradient.mul_(step.scale);
  moment1.mul_(step.beta1).add_(gradient, 1.0F - step.beta1);
  moment2.mul_(step.beta2).addcmul_(gradient, gradient, 1.0F - step.beta2);
  gradient.zero_();
  const torch::Tensor divisor = (moment2 / step.correction2).sqrt_().add_(step.eps);
  values.mul_(1.0F - step.rate * step.decay);
  values.addcdiv_(moment1, divisor, -step.rate / step.correction1);
  if (step.bounded) values.clamp_max_(step.most);
}

}  // namespace t2r::convert

#include "convert/train/adamw_tensors.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

namespace t2r::convert {
namespace {

// Tensors on a card take the steps that the CPU's loop takes, clipped, decayed and bounded.
TEST(AdamwTensors, StepLikeTheLoop) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  constexpr int64_t kCount = 1000;
  torch::Tensor values = torch::randn(kCount), other = values.clone();
  torch::Tensor moment1 = torch::zeros(kCount), moment2 = torch::zeros(kCount);
  torch::Tensor other_moment1 = moment1.clone(), other_moment2 = moment2.clone();
  for (int t = 1; t <= 5; ++t) {
    AdamwStep step;
    step.rate = 0.05F;
    step.decay = 0.2F;
    step.scale = 0.25F;
    step.correction1 = 1 - std::pow(step.beta1, static_cast<float>(t));
    step.correction2 = 1 - std::pow(step.beta2, static_cast<float>(t));
    step.most = 0.5F;
    step.bounded = t == 5;
    torch::Tensor gradient = torch::randn(kCount), other_gradient = gradient.clone();
    AdamwUpdate(step, kCount, other.data_ptr<float>(), other_gradient.data_ptr<float>(),
                other_moment1.data_ptr<float>(), other_moment2.data_ptr<float>());
    AdamwUpdateTensors(step, values, gradient, moment1, moment2);
    // Both in float32: ten roundings of values up to 4, and of moments up to 1.
    EXPECT_TRUE(torch::allclose(values, other, 1e-5, 1e-5)) << t;
    EXPECT_TRUE(torch::allclose(moment1, other_moment1, 1e-5, 1e-6)) << t;
    EXPECT_TRUE(torch::allclose(moment2, other_moment2, 1e-5, 1e-6)) << t;
    EXPECT_FALSE(gradient.any().item<bool>()) << t;
  }
  EXPECT_LE(values.max().item<float>(), 0.5F);
  EXPECT_EQ(values.max().item<float>(), other.max().item<float>());
}

}  // namespace
}  // namespace t2r::convert

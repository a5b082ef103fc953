#include "convert/train/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace t2r::convert {
namespace {

// By the paper's algorithm in double: three steps of a few values.
TEST(Adamw, FollowsThePaper) {
  std::vector<float> value{1.0F, -2.0F, 0.5F}, moment1(3), moment2(3);
  std::vector<double> exact(value.begin(), value.end()), m(3), v(3);
  for (int t = 1; t <= 3; ++t) {
    AdamwStep step;
    step.rate = 0.1F;
    step.decay = 0.25F;
    step.scale = 0.5F;
    step.correction1 = 1 - std::pow(0.9F, static_cast<float>(t));
    step.correction2 = 1 - std::pow(0.98F, static_cast<float>(t));
    std::vector<float> gradient{1.0F * static_cast<float>(t), -0.01F, 0.0F};
    for (size_t i = 0; i < 3; ++i) {
      const double g = 0.5 * gradient[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.98 * v[i] + 0.02 * g * g;
      exact[i] -= 0.1 * 0.25 * exact[i];
      exact[i] -= 0.1 * (m[i] / (1 - std::pow(0.9, t))) /
                  (std::sqrt(v[i] / (1 - std::pow(0.98, t))) + 1e-8);
    }
    AdamwUpdate(step, 3, value.data(), gradient.data(), moment1.data(), moment2.data());
    for (size_t i = 0; i < 3; ++i) {
      // Some ten roundings of 6e-8, of values near 1; 1 − 0.98^t in float loses a few bits more.
      EXPECT_NEAR(value[i], exact[i], 2e-5) << t << " " << i;
      EXPECT_EQ(gradient[i], 0.0F);
    }
  }
}

TEST(Adamw, KeepsBelowABound) {
  std::vector<float> value{-0.001F}, gradient{-1.0F}, moment1(1), moment2(1);
  AdamwStep step;
  step.rate = 1;
  step.bounded = true;
  AdamwUpdate(step, 1, value.data(), gradient.data(), moment1.data(), moment2.data());
  EXPECT_EQ(value[0], 0.0F);
}

}  // namespace
}  // namespace t2r::convert

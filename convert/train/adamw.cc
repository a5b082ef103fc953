#include "convert/train/adamw.h"

#include <algorithm>
#include <cmath>

namespace t2r::convert {

void AdamwUpdate(const AdamwStep& step, int64_t count, float* values, float* gradient,
                 float* moment1, float* moment2) {
  const float shrink = 1.0F - step.rate * step.decay;
  const float size = step.rate / step.correction1;
  const float inverse = 1.0F / step.correction2;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * step.scale;
    gradient[i] = 0;
    const float m = moment1[i] * step.beta1 + g * (1.0F - step.beta1);
    const float v = moment2[i] * step.beta2 + g * g * (1.0F - step.beta2);
    moment1[i] = m;
    moment2[i] = v;
    values[i] = values[i] * shrink - size * m / (std::sqrt(v * inverse) + step.eps);
  }
  if (!step.bounded) return;
  for (int64_t i = 0; i < count; ++i) values[i] = std::min(values[i], step.most);
}

}  // namespace t2r::convert

// exp for many arguments at once.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define T2R_HOST_DEVICE __host__ __device__
#else
#define T2R_HOST_DEVICE
#endif

namespace t2r {

// exp(x) for x ≤ 0, relative error below 2e-7; 0 below −87 (where exp leaves the normal float
// range) and for −∞. Branch-free, so loops over it vectorise. x = n·ln 2 + r with |r| ≤ ln 2 / 2;
// e^r is its Taylor polynomial of degree 7 (remainder 5e-9), ln 2 is subtracted in two parts so
// that r is exact to rounding.
T2R_HOST_DEVICE inline float ExpNonPositive(float x) {
  const float clamped = x < -87.0F ? -87.0F : x;
  // Adding 1.5·2^23 rounds to an integer, which is then the sum's low mantissa bits.
  const float shifted = clamped * 1.44269504F + 12582912.0F;
  const float n = shifted - 12582912.0F;
  float r = clamped - n * 0.693359375F;
  r -= n * -2.12194440e-4F;
  float p = 1.0F / 5040.0F;
  p = p * r + 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto exponent = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  const float result = p * __builtin_bit_cast(float, exponent);
  return x < -87.0F ? 0.0F : result;
}

}  // namespace t2r

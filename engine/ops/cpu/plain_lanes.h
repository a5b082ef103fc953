// Vectors of a fixed number of lanes in plain C++, over which kernels' sources run on any machine.
// Whoever includes it is built without contraction (-ffp-contract=off), as the whole project is.
#pragma once

#include <cstdint>

#include "engine/ops/dtype.h"

namespace t2r {

template <typename T, int kCount>
struct Lanes {
  T v[kCount];
};

template <int kCount>
struct PlainFloats {
  using Floats = Lanes<float, kCount>;

  static Floats SetFloats(float v) {
    Floats all;
    for (float& lane : all.v) lane = v;
    return all;
  }
  // bfloat16.
  static Floats Widen(const uint16_t* p) {
    Floats all;
    for (int i = 0; i < kCount; ++i) all.v[i] = BFloat16ToFloat(p[i]);
    return all;
  }
  static Floats Mul(Floats a, const Floats& b) {
    for (int i = 0; i < kCount; ++i) a.v[i] *= b.v[i];
    return a;
  }
  static Floats Add(Floats a, const Floats& b) {
    for (int i = 0; i < kCount; ++i) a.v[i] += b.v[i];
    return a;
  }
  static Floats LoadFloats(const float* p) {
    Floats all;
    __builtin_memcpy(all.v, p, sizeof(all.v));
    return all;
  }
  static void StoreFloats(const Floats& v, float* p) { __builtin_memcpy(p, v.v, sizeof(v.v)); }
};

}  // namespace t2r

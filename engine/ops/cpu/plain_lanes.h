// Vectors of a fixed number of lanes in plain C++, over which kernels' sources run on any machine.
// Whoever includes it is built without contraction (-ffp-contract=off), as the whole project is.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/ops/dtype.h"

namespace t2r {

template <typename T, int kCount>
struct Lanes {
  T v[kCount];

  static Lanes Filled(T value) {
    Lanes all;
    for (T& lane : all.v) lane = value;
    return all;
  }
  static Lanes Load(const T* p) {
    Lanes all;
    __builtin_memcpy(all.v, p, sizeof(all.v));
    return all;
  }
};

template <int kCount>
struct PlainFloats {
  using Floats = Lanes<float, kCount>;

  static Floats SetFloats(float v) { return Floats::Filled(v); }
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
  static Floats LoadFloats(const float* p) { return Floats::Load(p); }
  static void StoreFloats(const Floats& v, float* p) { __builtin_memcpy(p, v.v, sizeof(v.v)); }
};

template <int kCount>
struct PlainInts : PlainFloats<kCount> {
  using Ints = Lanes<int32_t, kCount>;

  static Ints SetInts(int32_t v) { return Ints::Filled(v); }
  static Ints LoadInts(const int32_t* p) { return Ints::Load(p); }
  static Ints AddInts(Ints a, const Ints& b) {
    for (int i = 0; i < kCount; ++i) a.v[i] += b.v[i];
    return a;
  }
  // 256 · sums + more.
  static Ints NextByte(Ints sums, int32_t more) {
    for (int32_t& v : sums.v) v = v * 256 + more;
    return sums;
  }
  static typename PlainFloats<kCount>::Floats ToFloats(const Ints& v) {
    typename PlainFloats<kCount>::Floats all;
    for (int i = 0; i < kCount; ++i) all.v[i] = static_cast<float>(v.v[i]);
    return all;
  }
};

// A zero of the same sign in place of what is subnormal.
inline float WithoutSubnormal(float v) {
  return std::abs(v) < 0x1p-126F ? std::copysign(0.0F, v) : v;
}

}  // namespace t2r

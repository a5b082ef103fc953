// CUDA's small vector types and the keywords of device code.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// Names and layouts are CUDA's.
struct dim3 {
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
  unsigned x, y, z;
};

#define T2R_EMULATOR_VECTORS(type, name)                                      \
  struct alignas(2 * sizeof(type)) name##2 {                                  \
    type x, y;                                                                \
  };                                                                          \
  struct name##3 {                                                            \
    type x, y, z;                                                             \
  };                                                                          \
  struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 {          \
    type x, y, z, w;                                                          \
  };                                                                          \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

T2R_EMULATOR_VECTORS(float, float)
T2R_EMULATOR_VECTORS(int, int)
T2R_EMULATOR_VECTORS(unsigned, uint)
#undef T2R_EMULATOR_VECTORS

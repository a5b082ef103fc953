// The one header through which device code sees CUDA.
//
// The same kernel sources compile with nvcc and, against the fibers of tests/cuda_emulator, as
// plain C++: there <cuda_runtime.h> is the emulator's, and T2R_CUDA_EMULATED is defined. So kernels
// use what both have: threadIdx, blockIdx, blockDim, gridDim, __global__, __device__,
// __syncthreads,
// __syncwarp, the *_sync warp functions, atomics, and the macros below for shared memory; and they
// are started by Launch, not by <<<>>>. No inline PTX, no fast-math intrinsics, no TF32. nvcc gets
// --fmad=false: what shall be one rounding is written fmaf, in both worlds.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "engine/ops/cuda/error.h"

#ifndef T2R_CUDA_EMULATED
#include <cuda_bf16.h>

// An array in a block's shared memory; uninitialised (the emulator fills it with NaN).
#define T2R_SHARED(type, name, count) __shared__ type name[count]
// The launch's dynamic shared memory, 16-byte aligned, as a pointer. Once a kernel.
#define T2R_DYNAMIC_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char t2r_dynamic_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(t2r_dynamic_shared_memory)
#endif

namespace t2r::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullMask = 0xffffffffU;

// ---- 16-bit and 8-bit numbers ----
// The storage type of 16-bit activations, weights and keys.
struct BFloat16 {
  uint16_t bits;
};

// IEEE 754 binary16, which only tables and files are kept in.
struct Float16 {
  uint16_t bits;
};

// e4m3 (fp8_kernels.h); 0x7f, which would be NaN, is never written.
struct Float8 {
  uint8_t bits;
};

__device__ __forceinline__ float ToFloat(float value) { return value; }
// Exact, subnormals included.
__device__ __forceinline__ float ToFloat(Float8 value) {
  const unsigned sign = (value.bits & 0x80U) << 24;
  const unsigned magnitude = value.bits & 0x7fU;
  if (magnitude < 8U) {  // zero or subnormal
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-9F));
  }
  return __uint_as_float(sign | ((magnitude << 20) + (120U << 23)));
}
// Exact, subnormals and infinities included.
__device__ __forceinline__ float ToFloat(Float16 value) {
  const unsigned sign = (value.bits & 0x8000U) << 16;
  const unsigned magnitude = value.bits & 0x7fffU;
  if (magnitude < 0x400U) {  // zero or subnormal
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-24F));
  }
  const unsigned bias = magnitude >= 0x7c00U ? 224U << 23 : 112U << 23;
  return __uint_as_float(sign | ((magnitude << 13) + bias));
}
// Exact: the upper half of a float32.
__device__ __forceinline__ float ToFloat(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

template <typename T>
__device__ __forceinline__ T FromFloat(float value);
template <>
__device__ __forceinline__ float FromFloat<float>(float value) {
  return value;
}
// Rounds to nearest, ties to even; NaN stays NaN.
template <>
__device__ __forceinline__ BFloat16 FromFloat<BFloat16>(float value) {
#ifdef T2R_CUDA_EMULATED
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  }
  return {static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
#else
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#endif
}

// N consecutive elements that are loaded and stored at once; their address is a multiple of the
// pack's size (at most 16 bytes).
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// ---- Warps ----
// The sum over the warp, the same bits in every lane. All 32 lanes call it.
__device__ __forceinline__ float WarpSum(float value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullMask, value, offset);
  }
  return value;
}
__device__ __forceinline__ float WarpMax(float value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullMask, value, offset));
  }
  return value;
}

// ---- Launching ----
// Where and how widely a kernel runs. `name` is for messages.
struct LaunchShape {
  const char* name;
  dim3 grid;
  dim3 block;
  size_t shared_bytes;  // dynamic; above 48 KiB the kernel's limit is raised first
  cudaStream_t stream;
};

// Starts kernel(args...). Throws DeviceError naming the kernel when it does not start. A grid
// without blocks starts nothing.
template <typename... Parameters, typename... Args>
void Launch(const LaunchShape& shape, void (*kernel)(Parameters...), Args&&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  if (shape.shared_bytes > 48 * 1024) {
    Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          shape.name);
  }
#ifdef T2R_CUDA_EMULATED
  emulator::NameNextKernel(shape.name);
#endif
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  Check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), shape.name);
}

}  // namespace t2r::cuda

// What a row of numbers is cut into steps by, before it becomes numbers of 8 bits, and how sums of
// products of these become numbers again.
#pragma once

#include "engine/ops/cuda/row_access.h"
#include "engine/ops/cuda/scaled_sums.h"

namespace t2r::cuda {

// Threads of the blocks that take a row each.
inline constexpr int kScaleThreads = 128;
inline constexpr int kScaleWarps = kScaleThreads / kWarpSize;

// The largest magnitude of a row over the block, the same bits in every thread; infinite where a
// value is NaN or infinite. `parts` is shared memory of its own.
template <typename T>
__device__ __forceinline__ float LargestOf(const RowsOf<T>& x, int64_t row, int64_t cols,
                                           float (&parts)[kScaleWarps]) {
  float most = 0.0F;
  float v[kColumns];
  for (int64_t c = threadIdx.x * kColumns; c < cols; c += kScaleThreads * kColumns) {
    x.Load(row, c, cols, v);
    for (int i = 0; i < kColumns; ++i) {
      const float magnitude = fabsf(v[i]);
      most = fmaxf(most, magnitude < INFINITY ? magnitude : INFINITY);
    }
  }
  most = WarpMax(most);
  if (threadIdx.x % kWarpSize == 0) parts[threadIdx.x / kWarpSize] = most;
  __syncthreads();
  for (int w = 0; w < kScaleWarps; ++w) most = fmaxf(most, parts[w]);
  return most;
}

// A row's step, and how many of them a value of one is; neither for rows that have none: of a
// largest magnitude below 1e-30, or with a NaN or an infinity, whose step is NaN.
struct Step {
  float scale;
  float inverse;
};
// `codes`: steps that the largest is.
__device__ __forceinline__ Step StepOf(float largest, float codes) {
  constexpr float kSmallest = 1e-30F;
  if (largest == INFINITY) return {NAN, 0.0F};
  if (largest < kSmallest) return {0.0F, 0.0F};
  return {largest / codes, codes / largest};
}

// out[row, c + i] (+)= sums[i] with their scales, + bias.
template <typename Sum, typename Out>
__device__ __forceinline__ void StoreScaled(const ScaledSums<Sum>& args,
                                            const float (&sums)[kColumns], int64_t row, int64_t c,
                                            int64_t cols, const RowsOf<Out>& out) {
  float before[kColumns] = {};
  if (args.accumulate) out.Load(row, c, cols, before);
  const float row_scale = args.row_scales[row];
  float v[kColumns];
  for (int i = 0; i < kColumns; ++i) {
    if (c + i >= cols) {
      v[i] = 0.0F;
      continue;
    }
    v[i] = sums[i] * (row_scale * args.channel_scales[c + i]);
    if (args.bias != nullptr) v[i] += args.bias[c + i];
    if (args.accumulate) v[i] += before[i];
  }
  out.Store(row, c, cols, v);
}

}  // namespace t2r::cuda

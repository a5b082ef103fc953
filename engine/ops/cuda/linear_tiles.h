// What the kernels of linear attention's chunked form share: the scratch memory between them.
#pragma once

#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/cuda/linear_kernels.h"
#include "engine/ops/cuda/tile_memory.h"

namespace t2r::cuda {

// Scratch: features [tile, groups + heads, 64, wide_k] (a group's key, then all query heads), then
// states [tile, group, wide_k · wide_d + wide_k] floats.
struct TileScratch {
  void* features;
  float* states;
  int heads;  // groups + query heads
  int groups;
  int wide_k;  // k and d rounded up to 16
  int wide_d;

  template <typename T>
  __device__ __forceinline__ T* Features(int tile, int head) const {
    return static_cast<T*>(features) +
           (static_cast<int64_t>(tile) * heads + head) * kSquare * wide_k;
  }
  __host__ __device__ int64_t state_floats() const {
    return static_cast<int64_t>(wide_k) * wide_d + wide_k;
  }
  __device__ __forceinline__ float* State(int tile, int group) const {
    return states + (static_cast<int64_t>(tile) * groups + group) * state_floats();
  }
};

// Where a thread stands in its block.
__device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / kWarpSize; }
__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ __forceinline__ int Smaller(int a, int b) { return a < b ? a : b; }

// A block's shared memory for what its warps read back of their products.
inline constexpr size_t kStageBytes = kTileThreads / kWarpSize * kStageFloats * sizeof(float);

// The stages of PrefillLinearAttention (linear_prefill.cu) over `count` tiles, which are the
// scratch's. `narrow`: activations and features are bfloat16, else float32.
void LaunchTileFeatures(const OpContext& context, const LinearParameters& parameters,
                        const TileScratch& scratch, const RowTile* tiles, int count, bool narrow);
void LaunchTileOutputs(const OpContext& context, const LinearParameters& parameters,
                       const TileScratch& scratch, const RowTile* tiles, int count, bool narrow);

}  // namespace t2r::cuda

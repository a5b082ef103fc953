// Tiles of 64 × 64 in shared memory, and how a block of four warps fills and multiplies them.
#pragma once

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/cuda/mma_tile.h"

namespace t2r::cuda {

// Threads of a block that works on tiles: four warps, each with 16 rows of the tile.
inline constexpr int kTileThreads = 128;
inline constexpr int kSquare = 64;  // rows and columns of a tile
static_assert(kSquare == kTileRows && kSquare == kTile * kTileThreads / kWarpSize);
// Elements between a tile's rows: 8 more than its columns, so that its rows begin in other banks.
inline constexpr int kSquareStride = kSquare + 8;
inline constexpr int kSquareElements = kSquare * kSquareStride;
// A warp's scratch for one tile of C.
inline constexpr int kStageStride = kTile + 4;
inline constexpr int kStageFloats = kTile * kStageStride;

__host__ __device__ constexpr int RoundUpToTile(int n) { return (n + kTile - 1) / kTile * kTile; }

// tile[r][c] = get(r, c) for r < rows and c < columns, zero beyond, up to 64 × `width` (a multiple
// of 16 that is ≥ columns). All threads of the block call it.
template <typename T, typename Get>
__device__ __forceinline__ void FillSquare(T* tile, int rows, int columns, int width,
                                           const Get& get) {
  const int c = static_cast<int>(threadIdx.x) % kSquare;
  if (c >= width) return;
  for (int r = static_cast<int>(threadIdx.x) / kSquare; r < kSquare; r += kTileThreads / kSquare) {
    tile[r * kSquareStride + c] = r < rows && c < columns ? get(r, c) : FromFloat<T>(0.0F);
  }
}

// Splits value into hi + lo of T: exact in float32, to 2^-16 of it in bfloat16.
template <typename T>
__device__ __forceinline__ T HighPart(float value) {
  return FromFloat<T>(value);
}
template <typename T>
__device__ __forceinline__ T LowPart(float value) {
  return FromFloat<T>(value - ToFloat(FromFloat<T>(value)));
}

// sums[n] += A B for the warp's 16 rows of A [64, depth] and columns 16 n … of B, n < tiles.
// a: the warp's rows; B(i, j) at b[i · stride + j] (kRows) or b[j · stride + i] (kColumns).
template <typename T, TileOrder kOrderA, TileOrder kOrderB, int kTiles>
__device__ __forceinline__ void MultiplySquare(const T* a, const T* b, int depth, int tiles,
                                               Accumulator<T> (&sums)[kTiles]) {
  for (int i = 0; i < depth; i += kTile) {
    const auto left = LoadA<T, kOrderA>(kOrderA == TileOrder::kRows ? a + i : a + i * kSquareStride,
                                        kSquareStride);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      if (n < tiles) {
        const auto right =
            LoadB<T, kOrderB>(kOrderB == TileOrder::kRows ? b + i * kSquareStride + n * kTile
                                                          : b + n * kTile * kSquareStride + i,
                              kSquareStride);
        Multiply<T, kOrderA, kOrderB>(left, right, sums[n]);
      }
    }
  }
}

// Hands the warp's C tile to its lanes: values[j] is row lane / 2, column 8 · (lane % 2) + j.
// stage: kStageFloats of the warp's own.
template <typename T>
__device__ __forceinline__ void ReadTile(const Accumulator<T>& sum, float* stage,
                                         float (&values)[kLaneColumns]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  __syncwarp();  // the lanes have read the tile before this one
  StoreTile<T>(sum, stage, kStageStride);
  __syncwarp();
  const float* row = stage + lane / 2 * kStageStride + lane % 2 * kLaneColumns;
#pragma unroll
  for (int j = 0; j < kLaneColumns; ++j) values[j] = row[j];
}

}  // namespace t2r::cuda

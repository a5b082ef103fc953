// X Wᵀ of a tile of 64 rows, by tensor cores.
#pragma once

#include "engine/ops/cuda/linear_tiles.h"

namespace t2r::cuda {

// u[r][m] = Σ_j get(r, j) W[m][j] for the tile's 64 rows (zero from `rows` on) and m < projected;
// W [projected, d] enters as a pair hi + lo of T. squares[r] = Σ_j get(r, j)² (of the rounded
// values) where it is not null, else is left alone. x, high, low: tiles. u: u_stride floats a row,
// at least `projected` rounded up to 16. All threads of a block of kTileThreads call it; other
// threads' results are there after __syncthreads.
template <typename T, typename Get>
__device__ __forceinline__ void ProjectTile(const float* weight, int projected, int d, int rows,
                                            const Get& get, T* x, T* high, T* low, float* stage,
                                            float* u, int u_stride, float* squares) {
  const int row = static_cast<int>(threadIdx.x);
  float sum_of_squares = 0;
  for (int n0 = 0; n0 < projected; n0 += kSquare) {
    const int wide = Smaller(kSquare, RoundUpToTile(projected - n0));
    Accumulator<T> sums[kSquare / kTile];
    for (Accumulator<T>& sum : sums) Clear<T>(sum);
    for (int j0 = 0; j0 < d; j0 += kSquare) {
      const int depth = Smaller(kSquare, RoundUpToTile(d - j0));
      __syncthreads();
      FillSquare(x, rows, d - j0, depth,
                 [&](int r, int j) { return FromFloat<T>(get(r, j0 + j)); });
      FillSquare(high, projected - n0, d - j0, depth,
                 [&](int r, int j) { return HighPart<T>(weight[(n0 + r) * d + j0 + j]); });
      if constexpr (sizeof(T) == 2) {
        FillSquare(low, projected - n0, d - j0, depth,
                   [&](int r, int j) { return LowPart<T>(weight[(n0 + r) * d + j0 + j]); });
      }
      __syncthreads();
      if (n0 == 0 && row < kSquare && squares != nullptr) {
        for (int j = 0; j < depth; ++j) {
          const float value = ToFloat(x[row * kSquareStride + j]);
          sum_of_squares = fmaf(value, value, sum_of_squares);
        }
      }
      const T* warp_rows = x + Warp() * kTile * kSquareStride;
      MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(warp_rows, high, depth, wide / kTile,
                                                               sums);
      if constexpr (sizeof(T) == 2) {
        MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(warp_rows, low, depth,
                                                                 wide / kTile, sums);
      }
    }
#pragma unroll
    for (int n = 0; n < kSquare / kTile; ++n) {
      if (n * kTile < wide) {
        float values[kLaneColumns];
        ReadTile<T>(sums[n], stage, values);
        float* to = u + (Warp() * kTile + Lane() / 2) * u_stride + n0 + n * kTile +
                    Lane() % 2 * kLaneColumns;
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) to[j] = values[j];
      }
    }
  }
  if (row < kSquare && squares != nullptr) squares[row] = sum_of_squares;
}

}  // namespace t2r::cuda

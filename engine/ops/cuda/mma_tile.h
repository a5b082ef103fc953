// Products of 16 × 16 tiles by one warp: C += A B, accumulated in float32.
//
// bfloat16 tiles go through the tensor cores (nvcuda::wmma). float32 tiles are multiplied by plain
// multiply-adds, without TF32, and so are bfloat16 ones where there are no tensor cores (the
// emulator): the same products, exact in float32, added in the order of K. Tensor cores add the
// products of a tile in an order and with a rounding of their own: a sum of n products is off by at
// most about n · 2^-23 of the sum of their magnitudes either way.
//
// All 32 lanes call every function. Tiles lie in shared memory, 32-byte aligned, rows (columns, for
// TileOrder::kColumns) `stride` elements apart, a multiple of 8. Tiles of A and B must stay as they
// are until the last Multiply that uses them.
#pragma once

#include <type_traits>

#include "engine/ops/cuda/cuda_compat.h"

#ifndef T2R_CUDA_EMULATED
#include <mma.h>
#endif

namespace t2r::cuda {

inline constexpr int kTile = 16;

enum class TileOrder { kRows, kColumns };

// Where a lane's elements of C lie in StoreTile's output when it is read back lane by lane: row
// lane / 2, columns 8 · (lane % 2) …, kLaneColumns of them.
inline constexpr int kLaneColumns = 8;

namespace internal {

// Tiles by reference: the lane multiplies its own 8 elements of C.
template <typename T, TileOrder kOrder>
struct ReferenceTile {
  const T* data;
  int stride;

  __device__ __forceinline__ float at(int row, int column) const {
    return ToFloat(kOrder == TileOrder::kRows ? data[row * stride + column]
                                              : data[column * stride + row]);
  }
};

struct LaneAccumulator {
  float v[kLaneColumns];
};

}  // namespace internal

#ifdef T2R_CUDA_EMULATED
template <typename T>
inline constexpr bool kTensorCores = false;
#else
template <typename T>
inline constexpr bool kTensorCores = std::is_same_v<T, BFloat16>;

namespace internal {
template <TileOrder kOrder>
using WmmaOrder = std::conditional_t<kOrder == TileOrder::kRows, nvcuda::wmma::row_major,
                                     nvcuda::wmma::col_major>;
template <typename Use, TileOrder kOrder>
using WmmaTile =
    nvcuda::wmma::fragment<Use, kTile, kTile, kTile, __nv_bfloat16, WmmaOrder<kOrder> >;
using WmmaAccumulator =
    nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kTile, kTile, kTile, float>;

template <typename T, typename Use, TileOrder kOrder>
struct TileType {
  using type = ReferenceTile<T, kOrder>;
};
template <typename Use, TileOrder kOrder>
struct TileType<BFloat16, Use, kOrder> {
  using type = WmmaTile<Use, kOrder>;
};
}  // namespace internal
#endif

#ifdef T2R_CUDA_EMULATED
template <typename T, TileOrder kOrder>
using TileA = internal::ReferenceTile<T, kOrder>;
template <typename T, TileOrder kOrder>
using TileB = internal::ReferenceTile<T, kOrder>;
template <typename T>
using Accumulator = internal::LaneAccumulator;
#else
template <typename T, TileOrder kOrder>
using TileA = typename internal::TileType<T, nvcuda::wmma::matrix_a, kOrder>::type;
template <typename T, TileOrder kOrder>
using TileB = typename internal::TileType<T, nvcuda::wmma::matrix_b, kOrder>::type;
template <typename T>
using Accumulator =
    std::conditional_t<kTensorCores<T>, internal::WmmaAccumulator, internal::LaneAccumulator>;
#endif

template <typename T, TileOrder kOrder>
__device__ __forceinline__ TileA<T, kOrder> LoadA(const T* data, int stride) {
  if constexpr (kTensorCores<T>) {
#ifndef T2R_CUDA_EMULATED
    TileA<T, kOrder> tile;
    nvcuda::wmma::load_matrix_sync(tile, reinterpret_cast<const __nv_bfloat16*>(data), stride);
    return tile;
#endif
  } else {
    return {data, stride};
  }
}

template <typename T, TileOrder kOrder>
__device__ __forceinline__ TileB<T, kOrder> LoadB(const T* data, int stride) {
  if constexpr (kTensorCores<T>) {
#ifndef T2R_CUDA_EMULATED
    TileB<T, kOrder> tile;
    nvcuda::wmma::load_matrix_sync(tile, reinterpret_cast<const __nv_bfloat16*>(data), stride);
    return tile;
#endif
  } else {
    return {data, stride};
  }
}

template <typename T>
__device__ __forceinline__ void Clear(Accumulator<T>& sum) {
  if constexpr (kTensorCores<T>) {
#ifndef T2R_CUDA_EMULATED
    nvcuda::wmma::fill_fragment(sum, 0.0F);
#endif
  } else {
    for (float& value : sum.v) value = 0.0F;
  }
}

template <typename T, TileOrder kOrderA, TileOrder kOrderB>
__device__ __forceinline__ void Multiply(const TileA<T, kOrderA>& a, const TileB<T, kOrderB>& b,
                                         Accumulator<T>& sum) {
  if constexpr (kTensorCores<T>) {
#ifndef T2R_CUDA_EMULATED
    nvcuda::wmma::mma_sync(sum, a, b, sum);
#endif
  } else {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int row = lane / 2;
    const int column = lane % 2 * kLaneColumns;
    for (int i = 0; i < kTile; ++i) {
      const float left = a.at(row, i);
#pragma unroll
      for (int j = 0; j < kLaneColumns; ++j) sum.v[j] = fmaf(left, b.at(i, column + j), sum.v[j]);
    }
  }
}

// Writes C by rows, `stride` floats apart (a multiple of 4). Other lanes' elements are there after
// __syncwarp.
template <typename T>
__device__ __forceinline__ void StoreTile(const Accumulator<T>& sum, float* data, int stride) {
  if constexpr (kTensorCores<T>) {
#ifndef T2R_CUDA_EMULATED
    nvcuda::wmma::store_matrix_sync(data, sum, stride, nvcuda::wmma::mem_row_major);
#endif
  } else {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    float* row = data + lane / 2 * stride + lane % 2 * kLaneColumns;
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) row[j] = sum.v[j];
  }
}

}  // namespace t2r::cuda

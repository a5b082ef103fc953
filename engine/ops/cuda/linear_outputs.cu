// Outputs of tiles, by tensor cores: the last stage of linear attention's chunked form.
//
// A block takes one tile of one query head. Bytes, in bfloat16: 2 · 64 · k · 2 of Φq and Φk, 64 · d
// · 2 each of V and of the output, 4 · k (d + 1) of the state before the tile, which the heads of a
// group share in L2. Operations: 2 · 64 · 64 · (k + d) for A and A V, halved where a warp's part of
// A lies above the diagonal, and 4 · 64 · k · d for Φq S₀ (S₀ is a pair of bfloat16; half that in
// float32).
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/linear_tiles.h"

namespace t2r::cuda {
namespace {

// Outputs of one tile and query head: blockIdx (tile, head).
// Shared: Φq, Φk (later S₀ high), S₀ low, V, A, a stage a warp.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    TileOutputsKernel(LinearParameters p, TileScratch scratch, const RowTile* tiles) {
  T2R_DYNAMIC_SHARED(T, q);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  T* const high = q + kSquareElements;
  T* const low = high + kSquareElements;
  T* const v = low + kSquareElements;
  T* const a = v + kSquareElements;
  float* const stage = reinterpret_cast<float*>(a + kSquareElements) + Warp() * kStageFloats;

  const bool causal = p.mode == LinearAttentionMode::kCausal;
  const int tile_index = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int group = head / p.num_queries_per_kv;
  const T* phi_q = scratch.Features<T>(tile_index, p.groups + head);
  const T* phi_k = scratch.Features<T>(tile_index, group);
  const float* state = causal ? scratch.State(tile_index, group) : p.S(tile.slot, group);
  const int state_stride = causal ? scratch.wide_d : p.d;
  const float* z = causal ? state + scratch.wide_k * scratch.wide_d : p.Z(tile.slot, group);
  const int row = Warp() * kTile + Lane() / 2;  // the lane's, with the lane beside it
  const int warp_row = Warp() * kTile * kSquareStride;
  const bool busy = Warp() * kTile < tile.rows;

  float sum = 0;  // of the row's denominator
  {
    Accumulator<T> sums[kSquare / kTile];
    for (Accumulator<T>& part : sums) Clear<T>(part);
    for (int i0 = 0; i0 < p.k; i0 += kSquare) {
      const int depth = Smaller(kSquare, scratch.wide_k - i0);
      if (i0 > 0) __syncthreads();
      FillSquare(q, kSquare, depth, depth,
                 [&](int r, int i) { return phi_q[r * scratch.wide_k + i0 + i]; });
      if (causal) {
        FillSquare(high, kSquare, depth, depth,
                   [&](int r, int i) { return phi_k[r * scratch.wide_k + i0 + i]; });
      }
      __syncthreads();
      if (!busy) continue;
      for (int i = Lane() % 2; i < depth && i0 + i < p.k; i += 2) {
        sum = fmaf(ToFloat(q[row * kSquareStride + i]), z[i0 + i], sum);
      }
      if (causal) {
        MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(q + warp_row, high, depth,
                                                                 Warp() + 1, sums);
      }
    }
    if (busy && causal) {
#pragma unroll
      for (int n = 0; n < kSquare / kTile; ++n) {
        if (n <= Warp()) {
          float values[kLaneColumns];
          ReadTile<T>(sums[n], stage, values);
          const int column = n * kTile + Lane() % 2 * kLaneColumns;
#pragma unroll
          for (int j = 0; j < kLaneColumns; ++j) {
            const T weight = FromFloat<T>(column + j <= row ? values[j] : 0.0F);
            sum += ToFloat(weight);
            a[row * kSquareStride + column + j] = weight;
          }
        }
      }
    }
  }
  const float den = p.Denominator(sum + __shfl_xor_sync(kFullMask, sum, 1));

  for (int n0 = 0; n0 < p.d; n0 += kSquare) {
    const int wide = Smaller(kSquare, scratch.wide_d - n0);
    Accumulator<T> sums[kSquare / kTile];
    for (Accumulator<T>& part : sums) Clear<T>(part);
    for (int i0 = 0; i0 < p.k; i0 += kSquare) {
      const int depth = Smaller(kSquare, scratch.wide_k - i0);
      __syncthreads();
      if (causal && i0 == 0) {
        FillSquare(v, tile.rows, p.d - n0, wide, [&](int r, int j) {
          return FromFloat<T>(
              p.v.Get(tile.first_row + r, static_cast<int64_t>(group) * p.d + n0 + j));
        });
      }
      if (p.k > kSquare) {
        FillSquare(q, kSquare, depth, depth,
                   [&](int r, int i) { return phi_q[r * scratch.wide_k + i0 + i]; });
      }
      const float* from = state + static_cast<int64_t>(i0) * state_stride + n0;
      FillSquare(high, p.k - i0, p.d - n0, wide,
                 [&](int r, int j) { return HighPart<T>(from[r * state_stride + j]); });
      if constexpr (sizeof(T) == 2) {
        FillSquare(low, p.k - i0, p.d - n0, wide,
                   [&](int r, int j) { return LowPart<T>(from[r * state_stride + j]); });
      }
      __syncthreads();
      if (!busy) continue;
      if (causal && i0 == 0) {
        MultiplySquare<T, TileOrder::kRows, TileOrder::kRows>(a + warp_row, v, (Warp() + 1) * kTile,
                                                              wide / kTile, sums);
      }
      MultiplySquare<T, TileOrder::kRows, TileOrder::kRows>(q + warp_row, high, depth, wide / kTile,
                                                            sums);
      if constexpr (sizeof(T) == 2) {
        MultiplySquare<T, TileOrder::kRows, TileOrder::kRows>(q + warp_row, low, depth,
                                                              wide / kTile, sums);
      }
    }
    if (!busy) continue;
#pragma unroll
    for (int n = 0; n < kSquare / kTile; ++n) {
      if (n * kTile < wide) {
        float values[kLaneColumns];
        ReadTile<T>(sums[n], stage, values);
        const int column = n0 + n * kTile + Lane() % 2 * kLaneColumns;
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) {
          if (row < tile.rows && column + j < p.d) {
            p.out.Set(tile.first_row + row, static_cast<int64_t>(head) * p.d + column + j,
                      values[j] / den);
          }
        }
      }
    }
  }
}

template <typename T>
void Run(const OpContext& context, const LinearParameters& p, const TileScratch& scratch,
         const RowTile* tiles, int count) {
  Launch({"linear_outputs", dim3(count, p.groups * p.num_queries_per_kv), dim3(kTileThreads),
          5 * kSquareElements * sizeof(T) + kStageBytes, context.stream},
         TileOutputsKernel<T>, p, scratch, tiles);
}

}  // namespace

void LaunchTileOutputs(const OpContext& context, const LinearParameters& parameters,
                       const TileScratch& scratch, const RowTile* tiles, int count, bool narrow) {
  if (narrow) {
    Run<BFloat16>(context, parameters, scratch, tiles, count);
  } else {
    Run<float>(context, parameters, scratch, tiles, count);
  }
}

}  // namespace t2r::cuda

// Outputs of tiles, by tensor cores: the last stage of windowed attention's chunked form.
//
// A block takes one tile of one query head: O = (W V + W' S₀) / denominators, W the weights of the
// tile's columns and W' those of S₀'s rows. Bytes, in bfloat16: 64 · 2 · (columns + M) of weights,
// 2 · d · columns of values and 4 · M · d of the state, both shared by the heads of a group in L2,
// and 64 · d · 2 of the output. Operations: 2 · 64 · d · (columns + 2 M) (S₀ is a pair of bfloat16;
// M in float32).
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/windowed_tiles.h"

namespace t2r::cuda {
namespace {

// blockIdx (tile, head). Shared: weights, values (or S₀ high), S₀ low, a stage a warp.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 4)
    WindowedOutputsKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles,
                          const Segment* segments) {
  T2R_DYNAMIC_SHARED(T, left);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  T* const right = left + kSquareElements;
  T* const low = right + kSquareElements;
  float* const stage = reinterpret_cast<float*>(low + kSquareElements) + Warp() * kStageFloats;
  const TileColumns columns(p, tile, segments);
  const int tile_index = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int group = head / p.map.num_queries_per_kv;
  const int d = p.map.d;
  const int count = columns.count();
  const T* const weights = scratch.Weights<T>(tile_index, head);
  const T* const state_weights = scratch.StateWeights<T>(tile_index, head);
  const bool updates = p.map.updates();
  const float* const state = updates ? scratch.State(tile_index, group) : p.map.S(tile.slot, group);
  const int state_stride = updates ? scratch.wide_d : d;
  const int row = Warp() * kTile + Lane() / 2;
  const T* const warp_rows = left + Warp() * kTile * kSquareStride;

  for (int n0 = 0; n0 < d; n0 += kSquare) {
    const int wide = Smaller(kSquare, RoundUpToTile(d - n0));
    Accumulator<T> sums[kSquare / kTile];
    for (Accumulator<T>& sum : sums) Clear<T>(sum);
    for (int c0 = 0; c0 < count; c0 += kSquare) {
      __syncthreads();
      FillSquare(left, kSquare, kSquare, kSquare,
                 [&](int r, int c) { return weights[r * scratch.columns + c0 + c]; });
      FillSquare(right, count - c0, d - n0, wide, [&](int r, int j) {
        return FromFloat<T>(
            ColumnElement<true>(p, scratch, columns, tile.slot, group, c0 + r, n0 + j));
      });
      __syncthreads();
      MultiplySquare<T, TileOrder::kRows, TileOrder::kRows>(warp_rows, right, kSquare, wide / kTile,
                                                            sums);
    }
    for (int m0 = 0; m0 < p.map.k; m0 += kSquare) {
      const int depth = Smaller(kSquare, scratch.wide_k - m0);
      const float* from = state + static_cast<int64_t>(m0) * state_stride + n0;
      __syncthreads();
      FillSquare(left, kSquare, depth, depth,
                 [&](int r, int m) { return state_weights[r * scratch.wide_k + m0 + m]; });
      FillSquare(right, p.map.k - m0, d - n0, wide,
                 [&](int r, int j) { return HighPart<T>(from[r * state_stride + j]); });
      if constexpr (sizeof(T) == 2) {
        FillSquare(low, p.map.k - m0, d - n0, wide,
                   [&](int r, int j) { return LowPart<T>(from[r * state_stride + j]); });
      }
      __syncthreads();
      MultiplySquare<T, TileOrder::kRows, TileOrder::kRows>(warp_rows, right, depth, wide / kTile,
                                                            sums);
      if constexpr (sizeof(T) == 2) {
        MultiplySquare<T, TileOrder::kRows, TileOrder::kRows>(warp_rows, low, depth, wide / kTile,
                                                              sums);
      }
    }
    const float den = scratch.Denominators(tile_index, head)[row];
#pragma unroll
    for (int n = 0; n < kSquare / kTile; ++n) {
      if (n * kTile < wide) {
        float values[kLaneColumns];
        ReadTile<T>(sums[n], stage, values);
        const int column = n0 + n * kTile + Lane() % 2 * kLaneColumns;
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) {
          if (row < tile.rows && column + j < d) {
            p.map.out.Set(tile.first_row + row, static_cast<int64_t>(head) * d + column + j,
                          values[j] / den);
          }
        }
      }
    }
  }
}

template <typename T>
void Run(const OpContext& context, const WindowedParameters& p, const WindowedScratch& scratch,
         const RowTile* tiles, int count) {
  Launch({"windowed_outputs", dim3(count, scratch.heads), dim3(kTileThreads),
          3 * kSquareElements * sizeof(T) + kStageBytes, context.stream},
         WindowedOutputsKernel<T>, p, scratch, tiles, context.batch.segments);
}

}  // namespace

void LaunchWindowedOutputs(const OpContext& context, const WindowedParameters& parameters,
                           const WindowedScratch& scratch, const RowTile* tiles, int count,
                           bool narrow) {
  if (narrow) {
    Run<BFloat16>(context, parameters, scratch, tiles, count);
  } else {
    Run<float>(context, parameters, scratch, tiles, count);
  }
}

}  // namespace t2r::cuda

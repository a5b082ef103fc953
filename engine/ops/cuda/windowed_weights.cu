// Weights of tiles, by tensor cores: a stage of windowed attention's chunked form.
//
// A block takes one tile of one query head. A row's weight for a column is e^(e_ij − c) where the
// key is near, φ_i · f_j where the row sees it folded, and 0 else; its weights for S₀'s rows are
// φ_m; all divided by e^c with c the row's largest exponent. They are rounded once to the
// activation dtype, before both numerator and denominator take them.
//
// Logits are multiplied twice, once for the largest and once for the weights, rather than kept.
// Operations: 4 · 64 · d · columns for them, 2 · 64 · M · (keys that the tile folds) for φ · f, and
// 4 · 64 · M · d for φ (the map is a pair of bfloat16; half that in float32). Bytes, in bfloat16:
// 64 · 2 · (d + columns + M), and 2 · d · columns of keys, which the heads of a group share in L2.
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/tile_projection.h"
#include "engine/ops/cuda/windowed_tiles.h"

namespace t2r::cuda {
namespace {

constexpr int kParts = kSquare / kTile;  // of a tile's columns, a product each
constexpr int kFeaturesOfALane = kMaxFeatures / kWarpSize;

// Q̂ K̂ᵀ of the tile's rows and 64 columns, without the scale. q, key: tiles.
template <typename T, typename Query>
__device__ __forceinline__ void MultiplyKeys(const WindowedParameters& p,
                                             const WindowedScratch& scratch, const RowTile& tile,
                                             const TileColumns& columns, int group, int first,
                                             const Query& query, T* q, T* key,
                                             Accumulator<T> (&sums)[kParts]) {
  for (Accumulator<T>& sum : sums) Clear<T>(sum);
  for (int i0 = 0; i0 < p.map.d; i0 += kSquare) {
    const int depth = Smaller(kSquare, RoundUpToTile(p.map.d - i0));
    __syncthreads();
    FillSquare(q, tile.rows, p.map.d - i0, depth,
               [&](int r, int i) { return FromFloat<T>(query(r, i0 + i)); });
    FillSquare(key, columns.count() - first, p.map.d - i0, depth, [&](int c, int i) {
      return FromFloat<T>(
          ColumnElement<false>(p, scratch, columns, tile.slot, group, first + c, i0 + i));
    });
    __syncthreads();
    MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(q + Warp() * kTile * kSquareStride,
                                                             key, depth, kParts, sums);
  }
}

// Whether row i sees a column's key near by, and whether it sees it folded.
struct Sight {
  bool near, far;
};
__device__ __forceinline__ Sight SightOf(const WindowedParameters& p, const TileColumns& columns,
                                         int column, int64_t i) {
  const int64_t j = columns.Position(column);
  if (column >= columns.count() || j > i) return {false, false};
  if (column < columns.sinks) return {true, false};
  if (j < columns.sinks) return {false, false};  // it has a column of its own
  const bool far = j < p.FoldedBefore(i);
  return {!far, far};
}

// blockIdx (tile, head). Shared: Q, keys, W low, a stage a warp, u [64, u_stride] (projections,
// exponents, φ), largest exponents near by and in all [64] each, denominators [64], squares [64].
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    WindowedWeightsKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles,
                          const Segment* segments, int u_stride) {
  T2R_DYNAMIC_SHARED(T, q);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  T* const key = q + kSquareElements;
  T* const low = key + kSquareElements;
  float* const stages = reinterpret_cast<float*>(low + kSquareElements);
  float* const stage = stages + Warp() * kStageFloats;
  float* const u = stages + kTileThreads / kWarpSize * kStageFloats;
  float* const near_high = u + kSquare * u_stride;
  float* const high = near_high + kSquare;
  float* const denominators = high + kSquare;
  float* const squares = denominators + kSquare;

  const TileColumns columns(p, tile, segments);
  const int tile_index = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int group = head / p.map.num_queries_per_kv;
  const int d = p.map.d;
  const int k = p.map.k;
  const int count = columns.count();
  const int64_t q_column = static_cast<int64_t>(head) * d;
  const int lane_row = Warp() * kTile + Lane() / 2;  // the lane's, with the lane beside it
  const int lane_column = Lane() % 2 * kLaneColumns;
  const int64_t lane_position = tile.position + lane_row;
  const auto rotated = [&](int r, int i) {
    return Rotated(p.map.q, tile.first_row + r, q_column, d, i, p.rope, p.cos_sin,
                   tile.first_row + r);
  };
  // Rows behind sink_position turn to the sinks as if they stood there.
  const bool apart = p.sink_cos_sin != nullptr && p.rope && columns.sinks > 0 &&
                     tile.position + tile.rows - 1 > p.sink_position;
  RowView sink_row;
  sink_row.data = const_cast<float*>(p.sink_cos_sin);
  const auto to_sinks = [&](int r, int i) {
    return tile.position + r <= p.sink_position
               ? rotated(r, i)
               : Rotated(p.map.q, tile.first_row + r, q_column, d, i, true, sink_row, 0);
  };
  // values: the lane's logits of part n of a block of columns.
  const auto logits_of = [&](const Accumulator<T>& sum, const Accumulator<T>& sink_sum, int first,
                             int n, float(&values)[kLaneColumns]) {
    ReadTile<T>(sum, stage, values);
    if (apart && first < columns.sinks) {
      float of_sinks[kLaneColumns];
      ReadTile<T>(sink_sum, stage, of_sinks);
#pragma unroll
      for (int j = 0; j < kLaneColumns; ++j) {
        if (first + n * kTile + lane_column + j < columns.sinks) values[j] = of_sinks[j];
      }
    }
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) values[j] *= p.map.query_scale;
  };

  // φ's projections.
  if (k > 0) {
    const auto seen = [&](int r, int i) {
      return p.rope_features ? rotated(r, i) : p.map.q.Get(tile.first_row + r, q_column + i);
    };
    if (p.map.projected > 0) {
      ProjectTile<T>(p.query_weight + static_cast<int64_t>(group) * p.map.projected * d,
                     p.map.projected, d, tile.rows, seen, q, key, low, stage, u, u_stride,
                     p.map.kind == FeatureMapKind::kRfa ? squares : nullptr);
    } else {
      for (int at = static_cast<int>(threadIdx.x); at < kSquare * d; at += kTileThreads) {
        u[at / d * u_stride + at % d] = at / d < tile.rows ? seen(at / d, at % d) : 0.0F;
      }
    }
  }

  // The largest logit near by.
  float largest = -INFINITY;
  for (int first = 0; first < count && p.window > 0; first += kSquare) {
    Accumulator<T> sums[kParts];
    Accumulator<T> sink_sums[kParts];
    MultiplyKeys(p, scratch, tile, columns, group, first, rotated, q, key, sums);
    if (apart && first < columns.sinks) {
      MultiplyKeys(p, scratch, tile, columns, group, first, to_sinks, q, key, sink_sums);
    }
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      float values[kLaneColumns];
      logits_of(sums[n], sink_sums[n], first, n, values);
#pragma unroll
      for (int j = 0; j < kLaneColumns; ++j) {
        const int column = first + n * kTile + lane_column + j;
        if (SightOf(p, columns, column, lane_position).near) largest = fmaxf(largest, values[j]);
      }
    }
  }
  largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 1));
  if (Lane() % 2 == 0) near_high[lane_row] = largest;
  __syncthreads();

  // φ and the weights of S₀'s rows; a warp a row, its lanes the features.
  const T* const features = scratch.Features<T>(tile_index, group);
  const bool updates = p.map.updates();
  const float* const z =
      k == 0 ? nullptr
             : (updates ? scratch.State(tile_index, group) + scratch.wide_k * scratch.wide_d
                        : p.map.Z(tile.slot, group));
  T* const state_weights = scratch.StateWeights<T>(tile_index, head);
  const float decay = p.Decay(group, 1);
  for (int r = Warp(); r < kSquare; r += kTileThreads / kWarpSize) {
    const int64_t i = tile.position + r;
    const bool real = r < tile.rows;
    float* const own = u + r * u_stride;
    float top = near_high[r];
    VectorFacts found;
    found.factor = p.map.query_scale;
    if (k == 0 || !real) {
      // Nothing beside the window.
    } else if (p.codebook()) {
      float far_high = -INFINITY;
      for (int m = Lane(); m < k; m += kWarpSize) {
        float exponent = CodebookExponent(p, head, m, own[m]);
        if (p.window > 0) {
          exponent = fminf(exponent, near_high[r] + kFarClamp);
          far_high = fmaxf(far_high, exponent);
        } else {
          // The centroid's mass as the row sees it.
          float mass = z[m];
          for (int before = 0; before <= r && updates; ++before) {
            mass = mass * decay + ToFloat(features[before * scratch.wide_k + m]);
          }
          if (mass > 0) far_high = fmaxf(far_high, exponent + logf(mass));
        }
        own[m] = exponent;
      }
      top = fmaxf(top, WarpMax(far_high));
    } else {
      if (p.map.kind == FeatureMapKind::kRfa) {
        found.factor /= fmaxf(sqrtf(squares[r]) * fabsf(found.factor), 1e-12F);
      } else if (p.map.kind == FeatureMapKind::kHedgehog) {
        FindSoftmax(p.map, own, &found);
      }
      top = fmaxf(top, p.far_bias[head]);
    }
    const float kept = real && updates ? p.Decay(group, p.FoldedBefore(i) - columns.begin) : 1.0F;
    // φ takes the place of what it is made of, once all lanes have read that.
    float phis[kFeaturesOfALane];
#pragma unroll
    for (int c = 0; c < kFeaturesOfALane; ++c) {
      const int m = c * kWarpSize + Lane();
      phis[c] = 0;
      if (real && m < k) {
        phis[c] = p.codebook()
                      ? expf(own[m] - top)
                      : Feature(p.map, group, m, own, found) * expf(p.far_bias[head] - top);
      }
    }
    __syncwarp();
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kFeaturesOfALane; ++c) {
      const int m = c * kWarpSize + Lane();
      if (m < scratch.wide_k) {
        const T weight = FromFloat<T>(phis[c] * kept);
        own[m] = phis[c];
        state_weights[r * scratch.wide_k + m] = weight;
        if (real && m < k) sum = fmaf(ToFloat(weight), z[m], sum);
      }
    }
    sum = WarpSum(sum);
    if (Lane() == 0) {
      high[r] = top;
      denominators[r] = sum;
    }
  }
  __syncthreads();

  // Weights of the columns.
  T* const weights = scratch.Weights<T>(tile_index, head);
  const float top = high[lane_row];
  float den = 0;
  for (int first = 0; first < count; first += kSquare) {
    Accumulator<T> sums[kParts];
    Accumulator<T> sink_sums[kParts];
    Accumulator<T> far_sums[kParts];
    if (p.window > 0) {
      MultiplyKeys(p, scratch, tile, columns, group, first, rotated, q, key, sums);
      if (apart && first < columns.sinks) {
        MultiplyKeys(p, scratch, tile, columns, group, first, to_sinks, q, key, sink_sums);
      }
    }
    for (Accumulator<T>& sum : far_sums) Clear<T>(sum);
    const int first_fold = first - columns.sinks;  // the block's first column among the folded keys
    const bool folds = k > 0 && first_fold < columns.folds();
    for (int m0 = 0; m0 < k && folds; m0 += kSquare) {
      const int depth = Smaller(kSquare, scratch.wide_k - m0);
      __syncthreads();
      FillSquare(q, kSquare, depth, depth,
                 [&](int r, int m) { return FromFloat<T>(u[r * u_stride + m0 + m]); });
      FillSquare(key, kSquare, depth, depth, [&](int c, int m) {
        const int at = first_fold + c;
        return at >= 0 && at < columns.folds() ? features[at * scratch.wide_k + m0 + m]
                                               : FromFloat<T>(0.0F);
      });
      __syncthreads();
      MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(q + Warp() * kTile * kSquareStride,
                                                               key, depth, kParts, far_sums);
    }
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      float values[kLaneColumns] = {};
      float far_values[kLaneColumns];
      if (p.window > 0) logits_of(sums[n], sink_sums[n], first, n, values);
      ReadTile<T>(far_sums[n], stage, far_values);
#pragma unroll
      for (int j = 0; j < kLaneColumns; ++j) {
        const int column = first + n * kTile + lane_column + j;
        const Sight sight = SightOf(p, columns, column, lane_position);
        float weight = 0;
        if (lane_row < tile.rows) {
          if (sight.near) weight = expf(values[j] - top);
          if (sight.far) {
            weight = far_values[j] *
                     p.Decay(group, p.FoldedBefore(lane_position) - 1 - columns.Position(column));
          }
        }
        const T rounded = FromFloat<T>(weight);
        den += ToFloat(rounded);
        weights[lane_row * scratch.columns + column] = rounded;
      }
    }
  }
  den += __shfl_xor_sync(kFullMask, den, 1);
  if (Lane() % 2 == 0) {
    scratch.Denominators(tile_index, head)[lane_row] = den + denominators[lane_row];
  }
}

template <typename T>
void Run(const OpContext& context, const WindowedParameters& p, const WindowedScratch& scratch,
         const RowTile* tiles, int count) {
  int width = p.map.d > p.map.projected ? p.map.d : p.map.projected;
  width = width > p.map.k ? width : p.map.k;
  const int u_stride = RoundUpToTile(width) + 4;
  const size_t shared =
      3 * kSquareElements * sizeof(T) + kStageBytes + kSquare * (u_stride + 4) * sizeof(float);
  Launch(
      {"windowed_weights", dim3(count, scratch.heads), dim3(kTileThreads), shared, context.stream},
      WindowedWeightsKernel<T>, p, scratch, tiles, context.batch.segments, u_stride);
}

}  // namespace

void LaunchWindowedWeights(const OpContext& context, const WindowedParameters& parameters,
                           const WindowedScratch& scratch, const RowTile* tiles, int count,
                           bool narrow) {
  if (narrow) {
    Run<BFloat16>(context, parameters, scratch, tiles, count);
  } else {
    Run<float>(context, parameters, scratch, tiles, count);
  }
}

}  // namespace t2r::cuda

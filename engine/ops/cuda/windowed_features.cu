// f of the keys that tiles fold, by tensor cores: a stage of windowed attention's chunked form.
//
// A block takes 64 keys of one tile and group. Bytes, in bfloat16: 64 · d of the keys as the window
// keeps them, 64 · M · 2 of f, and 4 · M · d of the map, which stays in L2. Operations:
// 4 · 64 · M · d (the map is a pair of bfloat16), half that in float32.
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/tile_projection.h"
#include "engine/ops/cuda/windowed_tiles.h"

namespace t2r::cuda {
namespace {

// Features of keys 64 · blockIdx.z … of a tile's folded ones; zero of the sinks and beyond the
// last: blockIdx (tile, group, keys / 64). Shared: X, W high, W low, a stage a warp, u [64,
// u_stride], squares [64], facts [64].
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    WindowedFeaturesKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles,
                           const Segment* segments, int u_stride) {
  T2R_DYNAMIC_SHARED(T, x);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  const TileColumns columns(p, tile, segments);
  const int first = static_cast<int>(blockIdx.z) * kSquare;
  const int keys = Smaller(columns.folds() - first, kSquare);
  if (keys <= 0) return;
  T* const high = x + kSquareElements;
  T* const low = high + kSquareElements;
  float* const stages = reinterpret_cast<float*>(low + kSquareElements);
  float* const u = stages + kTileThreads / kWarpSize * kStageFloats;
  float* const squares = u + kSquare * u_stride;
  auto* const facts = reinterpret_cast<VectorFacts*>(squares + kSquare);
  const int group = static_cast<int>(blockIdx.y);
  const int d = p.map.d;

  // Key r as f sees it.
  const auto key = [&](int r, int i) {
    const int column = columns.sinks + first + r;
    const float own = ColumnElement<false>(p, scratch, columns, tile.slot, group, column, i);
    if (!p.turns_back()) return own;
    const int half = d / 2;
    const int pair = i < half ? i : i - half;
    const float other = ColumnElement<false>(p, scratch, columns, tile.slot, group, column,
                                             i < half ? i + half : pair);
    const int64_t j = columns.Position(column);
    const int64_t folds_at = (j / p.fold + 1) * p.fold + p.window - 1;
    const TurnedPair turned = TurnBack(i < half ? own : other, i < half ? other : own, p.cos_sin,
                                       tile.first_row + folds_at - tile.position,
                                       p.fold_cos_sin + (folds_at - j - p.window) * d, d, pair);
    return i < half ? turned.low : turned.high;
  };
  if (p.map.projected > 0) {
    ProjectTile<T>(p.map.weight + static_cast<int64_t>(group) * p.map.projected * d,
                   p.map.projected, d, keys, key, x, high, low, stages + Warp() * kStageFloats, u,
                   u_stride, p.map.kind == FeatureMapKind::kRfa ? squares : nullptr);
  } else {
    for (int at = static_cast<int>(threadIdx.x); at < kSquare * d; at += kTileThreads) {
      u[at / d * u_stride + at % d] = at / d < keys ? key(at / d, at % d) : 0.0F;
    }
  }
  __syncthreads();
  for (int r = Warp(); r < keys; r += kTileThreads / kWarpSize) {
    VectorFacts found;
    if (p.codebook()) {
      FindCodebookSoftmax(p, group, u + r * u_stride, &found);
    } else if (p.map.kind == FeatureMapKind::kRfa) {
      found.factor = 1.0F / fmaxf(sqrtf(squares[r]), 1e-12F);
    } else if (p.map.kind == FeatureMapKind::kHedgehog) {
      FindSoftmax(p.map, u + r * u_stride, &found);
    }
    if (Lane() == 0) facts[r] = found;
  }
  __syncthreads();
  T* const out = scratch.Features<T>(static_cast<int>(blockIdx.x), group) +
                 static_cast<int64_t>(first) * scratch.wide_k;
  for (int at = static_cast<int>(threadIdx.x); at < kSquare * scratch.wide_k; at += kTileThreads) {
    const int r = at / scratch.wide_k;
    const int m = at % scratch.wide_k;
    const bool real =
        r < keys && m < p.map.k && columns.Position(columns.sinks + first + r) >= columns.sinks;
    out[at] = FromFloat<T>(real ? KeyFeature(p, group, m, u + r * u_stride, facts[r]) : 0.0F);
  }
}

template <typename T>
void Run(const OpContext& context, const WindowedParameters& p, const WindowedScratch& scratch,
         const RowTile* tiles, int count) {
  const int u_stride = RoundUpToTile(p.map.d > p.map.projected ? p.map.d : p.map.projected) + 4;
  const size_t shared = 3 * kSquareElements * sizeof(T) + kStageBytes +
                        kSquare * (u_stride + 1) * sizeof(float) + kSquare * sizeof(VectorFacts);
  Launch({"windowed_features", dim3(count, p.map.groups, scratch.fold_rows / kSquare),
          dim3(kTileThreads), shared, context.stream},
         WindowedFeaturesKernel<T>, p, scratch, tiles, context.batch.segments, u_stride);
}

}  // namespace

void LaunchWindowedFeatures(const OpContext& context, const WindowedParameters& parameters,
                            const WindowedScratch& scratch, const RowTile* tiles, int count,
                            bool narrow) {
  if (narrow) {
    Run<BFloat16>(context, parameters, scratch, tiles, count);
  } else {
    Run<float>(context, parameters, scratch, tiles, count);
  }
}

}  // namespace t2r::cuda

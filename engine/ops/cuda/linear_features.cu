// Φ of tiles, by tensor cores: the first stage of linear attention's chunked form.
//
// A block takes one tile of one head: X Wᵀ, then the map's elementwise part, rounded once to the
// activation dtype. Bytes, in bfloat16: 64 · d · 2 of X, 64 · k · 2 of Φ, and 4 · projected · d of
// the map, which stays in L2. Operations: 4 · 64 · projected · d (W is a pair of bfloat16), half
// that in float32.
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/linear_tiles.h"
#include "engine/ops/cuda/tile_projection.h"

namespace t2r::cuda {
namespace {

// Φ of one tile and one head: blockIdx (tile, head − first_head), keys' heads before queries'.
// Shared: X, W high, W low, a stage a warp, u [64, u_stride], squares [64], facts [64].
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    TileFeaturesKernel(LinearParameters p, TileScratch scratch, const RowTile* tiles,
                       int first_head, int u_stride) {
  T2R_DYNAMIC_SHARED(T, x);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  T* const high = x + kSquareElements;
  T* const low = high + kSquareElements;
  float* const stages = reinterpret_cast<float*>(low + kSquareElements);
  float* const u = stages + kTileThreads / kWarpSize * kStageFloats;
  float* const squares = u + kSquare * u_stride;
  auto* const facts = reinterpret_cast<VectorFacts*>(squares + kSquare);

  const int head = first_head + static_cast<int>(blockIdx.y);
  const bool query = head >= p.groups;
  const int group = query ? (head - p.groups) / p.num_queries_per_kv : head;
  const RowView source = query ? p.q : p.key;
  const int64_t first_column = static_cast<int64_t>(query ? head - p.groups : head) * p.width;
  if (p.weight != nullptr) {
    ProjectTile<T>(
        p.weight + static_cast<int64_t>(group) * p.projected * p.d, p.projected, p.d, tile.rows,
        [&](int r, int j) { return source.Get(tile.first_row + r, first_column + j); }, x, high,
        low, stages + Warp() * kStageFloats, u, u_stride,
        p.kind == FeatureMapKind::kRfa ? squares : nullptr);
  } else {
    for (int at = static_cast<int>(threadIdx.x); at < kSquare * p.width; at += kTileThreads) {
      const int r = at / p.width;
      const int j = at % p.width;
      u[r * u_stride + j] = r < tile.rows ? source.Get(tile.first_row + r, first_column + j) : 0.0F;
    }
  }
  __syncthreads();
  for (int r = Warp(); r < kSquare; r += kTileThreads / kWarpSize) {
    VectorFacts found;
    found.factor = query ? p.query_scale : 1.0F;
    if (p.kind == FeatureMapKind::kRfa) {
      found.factor /= fmaxf(sqrtf(squares[r]) * fabsf(found.factor), 1e-12F);
    } else if (p.kind == FeatureMapKind::kHedgehog) {
      FindSoftmax(p, u + r * u_stride, &found);
    }
    if (Lane() == 0) facts[r] = found;
  }
  __syncthreads();
  T* const out = scratch.Features<T>(static_cast<int>(blockIdx.x), head);
  for (int at = static_cast<int>(threadIdx.x); at < kSquare * scratch.wide_k; at += kTileThreads) {
    const int r = at / scratch.wide_k;
    const int i = at % scratch.wide_k;
    const bool real = r < tile.rows && i < p.k;
    out[at] = FromFloat<T>(real ? Feature(p, group, i, u + r * u_stride, facts[r]) : 0.0F);
  }
}

template <typename T>
void Run(const OpContext& context, const LinearParameters& p, const TileScratch& scratch,
         const RowTile* tiles, int count) {
  const int u_stride = RoundUpToTile(p.width > p.projected ? p.width : p.projected) + 4;
  const size_t shared = 3 * kSquareElements * sizeof(T) + kStageBytes +
                        kSquare * (u_stride + 1) * sizeof(float) + kSquare * sizeof(VectorFacts);
  const int first_head = p.updates() ? 0 : p.groups;
  const int heads = p.reads() ? scratch.heads - first_head : p.groups;
  Launch({"linear_features", dim3(count, heads), dim3(kTileThreads), shared, context.stream},
         TileFeaturesKernel<T>, p, scratch, tiles, first_head, u_stride);
}

}  // namespace

void LaunchTileFeatures(const OpContext& context, const LinearParameters& parameters,
                        const TileScratch& scratch, const RowTile* tiles, int count, bool narrow) {
  if (narrow) {
    Run<BFloat16>(context, parameters, scratch, tiles, count);
  } else {
    Run<float>(context, parameters, scratch, tiles, count);
  }
}

}  // namespace t2r::cuda

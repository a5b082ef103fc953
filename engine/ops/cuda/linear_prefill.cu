// Linear attention of tiles: the chunked form on tensor cores.
//
// A tile holds up to 64 rows of one 64-row window of a session. Four launches, parallel over tiles:
//   features   Φ of all rows and heads, rounded once to the activation dtype, so that numerator,
//              denominator and state use the same values; zero in rows that a tile lacks
//   sums       ΔS = Φkᵀ V, Δz = Σ Φk of each tile and group, float32
//   carry      the state before each tile, summed in the order of the tiles, and the new state
//   outputs    O = (tril(A) V + Φq S₀) / den(rowsum(tril(A)) + Φq z₀),  A = Φq Φkᵀ
// In bfloat16, A is rounded before both of its uses, and S₀ and the map's weights enter as hi + lo
// pairs of bfloat16 (2^-16 of their value is lost); all sums are float32.
//
// Per tile and group, at k = d = 64 with bfloat16 and r query heads: 64·64·2·(2 + 2r) bytes of q,
// k, v and out, 64·64·2·(1 + r)·2 of Φ, and 4 passes over k (d + 1) floats of state, the last two
// from L2 as a rule: 164 KiB at r = 3. Operations: 2·64·64·64 each for ΔS, and for A, tril(A) V and
// twice Φq S₀ of every query head, plus twice as much a vector for φ: 13 MFLOP at r = 3, 80 a byte.
// One loop over the chunks of a segment would save the state's passes but leaves a lone prompt with
// groups · (d / 64) blocks on a card of over a hundred processors.
#include <algorithm>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/linear_tiles.h"

namespace t2r::cuda {
namespace {

// ΔS and Δz of one tile and group, 64 features of them: blockIdx (tile, group, features / 64).
// Bytes, in bfloat16: 64 · k · 2 of Φk, 64 · d · 2 of V for every 64 features, 4 · k (d + 1) of the
// sums. Operations: 2 · 64 · k (d + 1).
// Shared: Φk, V, a tile each.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    TileSumsKernel(LinearParameters p, TileScratch scratch, const RowTile* tiles) {
  T2R_DYNAMIC_SHARED(T, phi);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  T* const v = phi + kSquareElements;
  const int group = static_cast<int>(blockIdx.y);
  const int m0 = static_cast<int>(blockIdx.z) * kSquare;
  const int wide_m = Smaller(kSquare, scratch.wide_k - m0);
  const T* features = scratch.Features<T>(static_cast<int>(blockIdx.x), group);
  float* const state = scratch.State(static_cast<int>(blockIdx.x), group);

  FillSquare(phi, kSquare, wide_m, wide_m,
             [&](int r, int i) { return features[r * scratch.wide_k + m0 + i]; });
  for (int n0 = 0; n0 < p.d; n0 += kSquare) {
    const int wide_n = Smaller(kSquare, scratch.wide_d - n0);
    if (n0 > 0) __syncthreads();
    FillSquare(v, tile.rows, p.d - n0, wide_n, [&](int r, int j) {
      return FromFloat<T>(p.v.Get(tile.first_row + r, static_cast<int64_t>(group) * p.d + n0 + j));
    });
    __syncthreads();
    if (Warp() * kTile < wide_m) {
      Accumulator<T> sums[kSquare / kTile];
      for (Accumulator<T>& sum : sums) Clear<T>(sum);
      MultiplySquare<T, TileOrder::kColumns, TileOrder::kRows>(phi + Warp() * kTile, v, kSquare,
                                                               wide_n / kTile, sums);
#pragma unroll
      for (int n = 0; n < kSquare / kTile; ++n) {
        if (n * kTile < wide_n) {
          StoreTile<T>(sums[n], state + (m0 + Warp() * kTile) * scratch.wide_d + n0 + n * kTile,
                       scratch.wide_d);
        }
      }
    }
  }
  const int i = static_cast<int>(threadIdx.x);
  if (i < wide_m) {
    float sum = 0;
    for (int r = 0; r < kSquare; ++r) sum += ToFloat(phi[r * kSquareStride + i]);
    state[scratch.wide_k * scratch.wide_d + m0 + i] = sum;
  }
}

constexpr int kCarryThreads = 256;
constexpr int kTilesInFlight = 8;  // whose sums a thread loads before it adds them

// Turns the sums of a segment's tiles, those of them that are among the scratch's tiles first …
// first + count − 1, into the states before them, element by element, and leaves the last one in
// the slot: blockIdx (tiled segment, group, elements / 256). Bytes: 8 an element and tile, and 8 an
// element of the slot's state; operations: one an element and tile.
__global__ void __launch_bounds__(kCarryThreads)
    CarryStatesKernel(LinearParameters p, TileScratch scratch, const RowTile* tiles,
                      const TiledSegment* tiled, int first, int count) {
  const TiledSegment segment = tiled[blockIdx.x];
  const int begin = segment.first_tile > first ? segment.first_tile : first;
  const int end = Smaller(segment.first_tile + segment.tiles, first + count);
  const int slot = tiles[segment.first_tile].slot;
  const int group = static_cast<int>(blockIdx.y);
  const int at = static_cast<int>(blockIdx.z * kCarryThreads + threadIdx.x);
  if (slot < 0 || begin >= end || at >= p.k * (p.d + 1)) return;
  const bool in_s = at < p.k * p.d;
  float* const home = in_s ? p.S(slot, group) + at : p.Z(slot, group) + (at - p.k * p.d);
  float* state = scratch.State(begin - first, group) +
                 (in_s ? at / p.d * scratch.wide_d + at % p.d
                       : scratch.wide_k * scratch.wide_d + at - p.k * p.d);
  const int64_t stride = scratch.groups * scratch.state_floats();
  float value = *home;
  for (int t = begin; t < end; t += kTilesInFlight) {
    float sums[kTilesInFlight];
#pragma unroll
    for (int i = 0; i < kTilesInFlight; ++i) {
      if (t + i < end) sums[i] = state[i * stride];
    }
#pragma unroll
    for (int i = 0; i < kTilesInFlight; ++i) {
      if (t + i < end) {
        state[i * stride] = value;
        value += sums[i];
      }
    }
    state += kTilesInFlight * stride;
  }
  *home = value;
}

// Tiles whose scratch exists at once: enough blocks to fill a card, and a bound on the memory,
// 0.5 MB a tile for 32 query and 8 key heads of 64 features.
constexpr int kTilesAtOnce = 256;

template <typename T>
void Prefill(const OpContext& context, const LinearParameters& p, bool narrow) {
  const DeviceBatch& batch = context.batch;
  const int at_once = std::min(batch.tile_count, kTilesAtOnce);
  TileScratch scratch;
  scratch.groups = p.groups;
  scratch.heads = p.groups + p.groups * p.num_queries_per_kv;
  scratch.wide_k = RoundUpToTile(p.k);
  scratch.wide_d = RoundUpToTile(p.d);
  const size_t feature_bytes =
      static_cast<size_t>(at_once) * scratch.heads * kSquare * scratch.wide_k * sizeof(T);
  const size_t state_bytes =
      static_cast<size_t>(at_once) * p.groups * scratch.state_floats() * sizeof(float);
  scratch.features = context.scratch.Reserve(feature_bytes + state_bytes);
  // 64 · wide_k elements a head keep the states as aligned as the features.
  scratch.states =
      reinterpret_cast<float*>(static_cast<std::byte*>(scratch.features) + feature_bytes);
  for (int first = 0; first < batch.tile_count; first += at_once) {
    const int count = std::min(at_once, batch.tile_count - first);
    const RowTile* const tiles = batch.tiles + first;
    LaunchTileFeatures(context, p, scratch, tiles, count, narrow);
    if (p.updates()) {
      Launch({"linear_sums", dim3(count, p.groups, (p.k + kSquare - 1) / kSquare),
              dim3(kTileThreads), 2 * kSquareElements * sizeof(T), context.stream},
             TileSumsKernel<T>, p, scratch, tiles);
      const unsigned blocks = (p.k * (p.d + 1) + kCarryThreads - 1) / kCarryThreads;
      Launch({"linear_carry", dim3(batch.tiled_count, p.groups, blocks), dim3(kCarryThreads), 0,
              context.stream},
             CarryStatesKernel, p, scratch, batch.tiles, batch.tiled, first, count);
    }
    if (p.reads()) LaunchTileOutputs(context, p, scratch, tiles, count, narrow);
  }
}

}  // namespace

void PrefillLinearAttention(const OpContext& context, const LinearParameters& parameters) {
  if (context.batch.tile_count == 0) return;
  const RowView& input = parameters.updates() ? parameters.key : parameters.q;
  if (input.narrow) {
    Prefill<BFloat16>(context, parameters, true);
  } else {
    Prefill<float>(context, parameters, false);
  }
}

}  // namespace t2r::cuda

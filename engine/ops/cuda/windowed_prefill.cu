// Windowed attention of tiles: the chunked form on tensor cores.
//
// A tile holds up to 64 rows of one 64-row stretch of a session. Launches, parallel over tiles:
//   keys       k̂ and v of all rows, rounded as the window keeps them, so that a tile sees the same
//              bits whether a key came with this step or one before it
//   features   f of the keys that the tile's rows fold
//   sums       ΔS = Σ ρ^(F₁ − 1 − j) f(k_j) v_jᵀ and Δz over them, F₁ = F of the tile's last row
//   carry      S and z before each tile, in the order of the tiles, and the new state
//   weights    of each row for the columns it sees (sinks, keys near by, keys that the tile's rows
//              before it fold) and for the rows of S before the tile, and their sum
//   outputs    weights times values and S, over that sum
//   store      the segment's last keys and values into the window
// Per tile and group, in bfloat16 with w = 64, C = 64, d = M = 64 and r query heads: about 192
// columns; 2 · 64 · 64 · (192 · 2 r + ...) operations: 2 · 64 · 64 · 64 · (2 + r · (6 + 3 + 3 + 2 +
// 4)) in all, 38 MFLOP at r = 4, over 64 · 64 · 2 · (2 + 2 r) bytes of q, k, v and out and
// 64 · 2 · 256 · 2 r of weights, written once and read once, from L2 as a rule.
#include <algorithm>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/windowed_tiles.h"

namespace t2r::cuda {
namespace {

// A tile's keys and values as the window keeps them: blockIdx (tile, group).
__global__ void __launch_bounds__(kTileThreads)
    WindowedKeysKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles) {
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  const int group = static_cast<int>(blockIdx.y);
  const int d = p.map.d;
  const int64_t column = static_cast<int64_t>(group) * d;
  for (int at = static_cast<int>(threadIdx.x); at < tile.rows * d; at += kTileThreads) {
    const int64_t row = tile.first_row + at / d;
    const int i = at % d;
    scratch.rows.Set(row, column + i,
                     Rotated(p.map.key, row, column, d, i, p.rotates_keys(), p.cos_sin, row));
    scratch.rows.Set(row, p.map.groups * d + column + i, p.map.v.Get(row, column + i));
  }
}

// ΔS and Δz of one tile and group, 64 features of them: blockIdx (tile, group, features / 64).
// Bytes, in bfloat16: 2 · (M + d) a key that is folded, for every 64 features and columns, and
// 4 · M (d + 1) of the sums. Operations: 2 · M (d + 1) a key.
// Shared: f, values.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    WindowedSumsKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles,
                       const Segment* segments) {
  T2R_DYNAMIC_SHARED(T, phi);
  const RowTile tile = tiles[blockIdx.x];
  if (tile.slot < 0) return;
  T* const v = phi + kSquareElements;
  const TileColumns columns(p, tile, segments);
  const int group = static_cast<int>(blockIdx.y);
  const int m0 = static_cast<int>(blockIdx.z) * kSquare;
  const int wide_m = Smaller(kSquare, scratch.wide_k - m0);
  const T* const features = scratch.Features<T>(static_cast<int>(blockIdx.x), group);
  float* const state = scratch.State(static_cast<int>(blockIdx.x), group);
  const int folds = columns.folds();
  const int i = static_cast<int>(threadIdx.x);
  float mass = 0;

  for (int n0 = 0; n0 < p.map.d; n0 += kSquare) {
    const int wide_n = Smaller(kSquare, scratch.wide_d - n0);
    Accumulator<T> sums[kSquare / kTile];
    for (Accumulator<T>& sum : sums) Clear<T>(sum);
    for (int first = 0; first < folds; first += kSquare) {
      const int keys = Smaller(folds - first, kSquare);
      __syncthreads();
      FillSquare(phi, keys, wide_m, wide_m, [&](int r, int m) {
        const float f = ToFloat(features[(first + r) * scratch.wide_k + m0 + m]);
        return FromFloat<T>(f * p.Decay(group, folds - 1 - first - r));
      });
      FillSquare(v, keys, p.map.d - n0, wide_n, [&](int r, int j) {
        return FromFloat<T>(ColumnElement<true>(p, scratch, columns, tile.slot, group,
                                                columns.sinks + first + r, n0 + j));
      });
      __syncthreads();
      if (Warp() * kTile < wide_m) {
        MultiplySquare<T, TileOrder::kColumns, TileOrder::kRows>(phi + Warp() * kTile, v, kSquare,
                                                                 wide_n / kTile, sums);
      }
      if (n0 == 0 && i < wide_m) {
        for (int r = 0; r < keys; ++r) mass += ToFloat(phi[r * kSquareStride + i]);
      }
    }
    if (Warp() * kTile < wide_m) {
#pragma unroll
      for (int n = 0; n < kSquare / kTile; ++n) {
        if (n * kTile < wide_n) {
          StoreTile<T>(sums[n], state + (m0 + Warp() * kTile) * scratch.wide_d + n0 + n * kTile,
                       scratch.wide_d);
        }
      }
    }
  }
  if (i < wide_m) state[scratch.wide_k * scratch.wide_d + m0 + i] = mass;
}

constexpr int kCarryThreads = 256;

// Turns the sums of a segment's tiles, those of them that are among the scratch's tiles first …
// first + count − 1, into S and z before them, element by element, and leaves the last ones in the
// slot: blockIdx (tiled segment, group, elements / 256). Bytes: 8 an element and tile, and 8 an
// element of the slot's state; operations: two an element and tile.
__global__ void __launch_bounds__(kCarryThreads)
    WindowedCarryKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles,
                        const TiledSegment* tiled, const Segment* segments, int first, int count) {
  const TiledSegment segment = tiled[blockIdx.x];
  const int begin = segment.first_tile > first ? segment.first_tile : first;
  const int end = Smaller(segment.first_tile + segment.tiles, first + count);
  const int slot = tiles[segment.first_tile].slot;
  const int group = static_cast<int>(blockIdx.y);
  const int k = p.map.k;
  const int d = p.map.d;
  const int at = static_cast<int>(blockIdx.z * kCarryThreads + threadIdx.x);
  if (slot < 0 || begin >= end || at >= k * (d + 1)) return;
  const bool in_s = at < k * d;
  float* const home = in_s ? p.map.S(slot, group) + at : p.map.Z(slot, group) + (at - k * d);
  float value = *home;
  for (int t = begin; t < end; ++t) {
    float* const state =
        scratch.State(t - first, group) +
        (in_s ? at / d * scratch.wide_d + at % d : scratch.wide_k * scratch.wide_d + at - k * d);
    const float sum = *state;
    const TileColumns columns(p, tiles[t], segments);
    *state = value;
    value = value * p.Decay(group, columns.folds()) + sum;
  }
  *home = value;
}

// The last keys and values of a segment's tiles into its slot's window: blockIdx (tiled segment,
// group). Bytes: 4 (or 8) · d a position, at most R + n of them.
__global__ void __launch_bounds__(kTileThreads)
    WindowedStoreKernel(WindowedParameters p, WindowedScratch scratch, const RowTile* tiles,
                        const TiledSegment* tiled) {
  const TiledSegment segment = tiled[blockIdx.x];
  const RowTile head = tiles[segment.first_tile];
  if (head.slot < 0) return;
  const RowTile tail = tiles[segment.first_tile + segment.tiles - 1];
  const int group = static_cast<int>(blockIdx.y);
  const int d = p.map.d;
  const RowView window = p.Window(head.slot);
  const int64_t end = tail.position + tail.rows;
  const auto store = [&](int64_t begin, int64_t count, bool sink) {
    for (int64_t at = static_cast<int64_t>(threadIdx.x); at < count * d; at += kTileThreads) {
      const int64_t j = begin + at / d;
      const int i = static_cast<int>(at % d);
      const int64_t row = head.first_row + j - head.position;
      const int64_t place = sink ? p.ring + j : j % p.ring;
      window.Set(p.KeyRow(group, place), i,
                 scratch.rows.Get(row, static_cast<int64_t>(group) * d + i));
      window.Set(p.ValueRow(group, place), i,
                 scratch.rows.Get(row, static_cast<int64_t>(p.map.groups + group) * d + i));
    }
  };
  const int64_t kept = end - p.ring > head.position ? end - p.ring : head.position;
  store(kept, end - kept, false);
  const int64_t sinks = end < p.sinks ? end : p.sinks;
  if (head.position < sinks) store(head.position, sinks - head.position, true);
}

// Tiles at once: enough to fill a card, few enough that the scratch stays below this.
constexpr int kTilesAtOnce = 256;
constexpr size_t kScratchBytes = size_t{128} << 20;

constexpr size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
constexpr int RoundUpToSquare(int64_t n) {
  return static_cast<int>((n + kSquare - 1) / kSquare * kSquare);
}

template <typename T>
void Prefill(const OpContext& context, const WindowedParameters& p, bool narrow) {
  const DeviceBatch& batch = context.batch;
  WindowedScratch scratch = {};
  scratch.groups = p.map.groups;
  scratch.heads = p.map.groups * p.map.num_queries_per_kv;
  scratch.wide_k = RoundUpToTile(p.map.k);
  scratch.wide_d = RoundUpToTile(p.map.d);
  scratch.fold_rows = RoundUpToSquare(kTileRows + p.fold - 1);
  // What is not folded before a tile, and the tile; without a window the tile alone.
  scratch.columns =
      RoundUpToSquare(kTileRows + (p.window > 0 ? p.window + p.fold - 2 + p.sinks : 0));
  const bool updates = p.map.updates();
  const bool narrow_rows = p.window > 0 && p.narrow_window;
  const size_t row_bytes =
      Aligned(static_cast<size_t>(batch.rows) * 2 * p.map.groups * p.map.d * (narrow_rows ? 2 : 4));
  const size_t feature_bytes =
      Aligned(static_cast<size_t>(scratch.groups) * scratch.fold_rows * scratch.wide_k * sizeof(T));
  const size_t state_bytes =
      Aligned(static_cast<size_t>(scratch.groups) * scratch.state_floats() * sizeof(float));
  const size_t weight_bytes =
      Aligned(static_cast<size_t>(scratch.heads) * kSquare * scratch.columns * sizeof(T));
  const size_t state_weight_bytes =
      Aligned(static_cast<size_t>(scratch.heads) * kSquare * scratch.wide_k * sizeof(T));
  const size_t den_bytes = Aligned(static_cast<size_t>(scratch.heads) * kSquare * sizeof(float));
  const size_t tile_bytes =
      feature_bytes + state_bytes + weight_bytes + state_weight_bytes + den_bytes;
  const int at_once = std::min<int>(
      batch.tile_count,
      static_cast<int>(std::clamp<size_t>(kScratchBytes / tile_bytes, 1, kTilesAtOnce)));
  auto* next = static_cast<std::byte*>(context.scratch.Reserve(row_bytes + tile_bytes * at_once));
  const auto take = [&](size_t bytes) {
    std::byte* const taken = next;
    next += bytes;
    return taken;
  };
  scratch.rows.data = take(row_bytes);
  scratch.rows.stride = 2LL * p.map.groups * p.map.d;
  scratch.rows.narrow = narrow_rows;
  scratch.features = take(feature_bytes * at_once);
  scratch.states = reinterpret_cast<float*>(take(state_bytes * at_once));
  scratch.weights = take(weight_bytes * at_once);
  scratch.state_weights = take(state_weight_bytes * at_once);
  scratch.denominators = reinterpret_cast<float*>(take(den_bytes * at_once));

  const auto groups = static_cast<unsigned>(p.map.groups);
  if (updates) {
    Launch({"windowed_keys", dim3(batch.tile_count, groups), dim3(kTileThreads), 0, context.stream},
           WindowedKeysKernel, p, scratch, batch.tiles);
  }
  for (int first = 0; first < batch.tile_count; first += at_once) {
    const int count = std::min(at_once, batch.tile_count - first);
    const RowTile* const tiles = batch.tiles + first;
    if (updates && p.map.k > 0) {
      LaunchWindowedFeatures(context, p, scratch, tiles, count, narrow);
      Launch({"windowed_sums", dim3(count, groups, (p.map.k + kSquare - 1) / kSquare),
              dim3(kTileThreads), 2 * kSquareElements * sizeof(T), context.stream},
             WindowedSumsKernel<T>, p, scratch, tiles, batch.segments);
      const unsigned blocks = (p.map.k * (p.map.d + 1) + kCarryThreads - 1) / kCarryThreads;
      Launch({"windowed_carry", dim3(batch.tiled_count, groups, blocks), dim3(kCarryThreads), 0,
              context.stream},
             WindowedCarryKernel, p, scratch, batch.tiles, batch.tiled, batch.segments, first,
             count);
    }
    if (p.map.reads()) {
      LaunchWindowedWeights(context, p, scratch, tiles, count, narrow);
      LaunchWindowedOutputs(context, p, scratch, tiles, count, narrow);
    }
  }
  if (updates && p.window > 0) {
    Launch(
        {"windowed_store", dim3(batch.tiled_count, groups), dim3(kTileThreads), 0, context.stream},
        WindowedStoreKernel, p, scratch, batch.tiles, batch.tiled);
  }
}

}  // namespace

void PrefillWindowedAttention(const OpContext& context, const WindowedParameters& parameters) {
  if (context.batch.tile_count == 0) return;
  const RowView& input = parameters.map.updates() ? parameters.map.key : parameters.map.q;
  if (input.narrow) {
    Prefill<BFloat16>(context, parameters, true);
  } else {
    Prefill<float>(context, parameters, false);
  }
}

}  // namespace t2r::cuda

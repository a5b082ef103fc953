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
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/linear_kernels.h"
#include "engine/ops/cuda/tile_memory.h"

namespace t2r::cuda {
namespace {

// Scratch: features [tile, groups + heads, 64, wide_k] (a group's key, then all query heads), then
// states [tile, group, wide_k · wide_d + wide_k] floats.
struct TileScratch {
  void* features;
  float* states;
  int heads;  // groups + query heads
  int groups;
  int wide_k;  // k and d rounded up to 16
  int wide_d;

  template <typename T>
  __device__ __forceinline__ T* Features(int tile, int head) const {
    return static_cast<T*>(features) +
           (static_cast<int64_t>(tile) * heads + head) * kSquare * wide_k;
  }
  __host__ __device__ int64_t state_floats() const {
    return static_cast<int64_t>(wide_k) * wide_d + wide_k;
  }
  __device__ __forceinline__ float* State(int tile, int group) const {
    return states + (static_cast<int64_t>(tile) * groups + group) * state_floats();
  }
};

__device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / kWarpSize; }
__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ __forceinline__ int Smaller(int a, int b) { return a < b ? a : b; }

// u = X Wᵀ of a tile's rows of one head, and where rfa wants them the squares of X's rows.
// x, high, low: tiles. All threads call it.
template <typename T>
__device__ __forceinline__ void ProjectTile(const LinearParameters& p, const RowTile& tile,
                                            const RowView& source, int64_t first_column, int group,
                                            T* x, T* high, T* low, float* stage, float* u,
                                            int u_stride, float* squares) {
  const float* weight = p.weight + static_cast<int64_t>(group) * p.projected * p.d;
  const int row = static_cast<int>(threadIdx.x);
  float sum_of_squares = 0;
  for (int n0 = 0; n0 < p.projected; n0 += kSquare) {
    const int wide = Smaller(kSquare, RoundUpToTile(p.projected - n0));
    Accumulator<T> sums[kSquare / kTile];
    for (Accumulator<T>& sum : sums) Clear<T>(sum);
    for (int j0 = 0; j0 < p.d; j0 += kSquare) {
      const int depth = Smaller(kSquare, RoundUpToTile(p.d - j0));
      __syncthreads();
      FillSquare(x, tile.rows, p.d - j0, depth, [&](int r, int j) {
        return FromFloat<T>(source.Get(tile.first_row + r, first_column + j0 + j));
      });
      FillSquare(high, p.projected - n0, p.d - j0, depth,
                 [&](int r, int j) { return HighPart<T>(weight[(n0 + r) * p.d + j0 + j]); });
      if constexpr (sizeof(T) == 2) {
        FillSquare(low, p.projected - n0, p.d - j0, depth,
                   [&](int r, int j) { return LowPart<T>(weight[(n0 + r) * p.d + j0 + j]); });
      }
      __syncthreads();
      if (n0 == 0 && row < kSquare && p.kind == FeatureMapKind::kRfa) {
        for (int j = 0; j < depth; ++j) {
          const float value = ToFloat(x[row * kSquareStride + j]);
          sum_of_squares = fmaf(value, value, sum_of_squares);
        }
      }
      const T* rows = x + Warp() * kTile * kSquareStride;
      MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(rows, high, depth, wide / kTile,
                                                               sums);
      if constexpr (sizeof(T) == 2) {
        MultiplySquare<T, TileOrder::kRows, TileOrder::kColumns>(rows, low, depth, wide / kTile,
                                                                 sums);
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
  if (row < kSquare) squares[row] = sum_of_squares;
}

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
  const int group = query ? (head - p.groups) / p.ratio : head;
  const RowView source = query ? p.q : p.key;
  const int64_t first_column = static_cast<int64_t>(query ? head - p.groups : head) * p.width;
  if (p.weight != nullptr) {
    ProjectTile<T>(p, tile, source, first_column, group, x, high, low,
                   stages + Warp() * kStageFloats, u, u_stride, squares);
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

// ΔS and Δz of one tile and group, 64 features of them: blockIdx (tile, group, features / 64).
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

// Turns the sums of a segment's tiles into the states before them, element by element, and leaves
// the last one in the slot: blockIdx (tiled segment, group, elements / 256).
__global__ void __launch_bounds__(kCarryThreads)
    CarryStatesKernel(LinearParameters p, TileScratch scratch, const RowTile* tiles,
                      const TiledSegment* tiled) {
  const TiledSegment segment = tiled[blockIdx.x];
  const int slot = tiles[segment.first_tile].slot;
  const int group = static_cast<int>(blockIdx.y);
  const int at = static_cast<int>(blockIdx.z * kCarryThreads + threadIdx.x);
  if (slot < 0 || at >= p.k * (p.d + 1)) return;
  const bool in_s = at < p.k * p.d;
  float* const home = in_s ? p.S(slot, group) + at : p.Z(slot, group) + (at - p.k * p.d);
  float* state = scratch.State(segment.first_tile, group) +
                 (in_s ? at / p.d * scratch.wide_d + at % p.d
                       : scratch.wide_k * scratch.wide_d + at - p.k * p.d);
  const int64_t stride = scratch.groups * scratch.state_floats();
  float value = *home;
  for (int t = 0; t < segment.tiles; t += kTilesInFlight) {
    float sums[kTilesInFlight];
#pragma unroll
    for (int i = 0; i < kTilesInFlight; ++i) {
      if (t + i < segment.tiles) sums[i] = state[i * stride];
    }
#pragma unroll
    for (int i = 0; i < kTilesInFlight; ++i) {
      if (t + i < segment.tiles) {
        state[i * stride] = value;
        value += sums[i];
      }
    }
    state += kTilesInFlight * stride;
  }
  *home = value;
}

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
  const int group = head / p.ratio;
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
void Prefill(const OpContext& context, const LinearParameters& p) {
  const DeviceBatch& batch = context.batch;
  const int query_heads = p.groups * p.ratio;
  TileScratch scratch;
  scratch.groups = p.groups;
  scratch.heads = p.groups + query_heads;
  scratch.wide_k = RoundUpToTile(p.k);
  scratch.wide_d = RoundUpToTile(p.d);
  const size_t feature_bytes =
      static_cast<size_t>(batch.tile_count) * scratch.heads * kSquare * scratch.wide_k * sizeof(T);
  const size_t state_bytes =
      static_cast<size_t>(batch.tile_count) * p.groups * scratch.state_floats() * sizeof(float);
  scratch.features = context.scratch.Reserve(feature_bytes + state_bytes);
  // 64 · wide_k elements a head keep the states as aligned as the features.
  scratch.states =
      reinterpret_cast<float*>(static_cast<std::byte*>(scratch.features) + feature_bytes);

  constexpr size_t kStages = kTileThreads / kWarpSize * kStageFloats * sizeof(float);
  const int u_stride = RoundUpToTile(p.width > p.projected ? p.width : p.projected) + 4;
  const size_t feature_shared = 3 * kSquareElements * sizeof(T) + kStages +
                                kSquare * (u_stride + 1) * sizeof(float) +
                                kSquare * sizeof(VectorFacts);
  const auto tiles = static_cast<unsigned>(batch.tile_count);
  const int first_head = p.updates() ? 0 : p.groups;
  const int heads = p.reads() ? scratch.heads - first_head : p.groups;
  Launch(
      {"linear_features", dim3(tiles, heads), dim3(kTileThreads), feature_shared, context.stream},
      TileFeaturesKernel<T>, p, scratch, batch.tiles, first_head, u_stride);
  if (p.updates()) {
    Launch({"linear_sums", dim3(tiles, p.groups, (p.k + kSquare - 1) / kSquare), dim3(kTileThreads),
            2 * kSquareElements * sizeof(T), context.stream},
           TileSumsKernel<T>, p, scratch, batch.tiles);
    Launch(
        {"linear_carry",
         dim3(batch.tiled_count, p.groups, (p.k * (p.d + 1) + kCarryThreads - 1) / kCarryThreads),
         dim3(kCarryThreads), 0, context.stream},
        CarryStatesKernel, p, scratch, batch.tiles, batch.tiled);
  }
  if (p.reads()) {
    Launch({"linear_outputs", dim3(tiles, query_heads), dim3(kTileThreads),
            5 * kSquareElements * sizeof(T) + kStages, context.stream},
           TileOutputsKernel<T>, p, scratch, batch.tiles);
  }
}

}  // namespace

void PrefillLinearAttention(const OpContext& context, const LinearParameters& parameters) {
  if (context.batch.tile_count == 0) return;
  const RowView& input = parameters.updates() ? parameters.key : parameters.q;
  if (input.narrow) {
    Prefill<BFloat16>(context, parameters);
  } else {
    Prefill<float>(context, parameters);
  }
}

}  // namespace t2r::cuda

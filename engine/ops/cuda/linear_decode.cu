// Linear attention of rows that stand alone: the recurrence, S read once and written once.
//
// A team of 32, 64 or 128 threads takes one group of one row; a block of 128 holds the teams of
// several neighbouring groups where k · d is small. The team computes φ(k) and φ(q) in shared
// memory, then each thread owns a column (four with float4 accesses) of every n-th row of S: it
// updates the element, and adds it to the outputs of all query heads of the group. No element of S
// is shared; the threads' partial outputs are added in a fixed order.
//
// A row and group costs 8 k d bytes of S (read and written), 8 k of z, 2–4 bytes of each element of
// q, k, v and out, and 4 projected d bytes of the map, which stays in L2: the same map serves all
// rows. Operations: 2 k d for the update, 2 k d a query head for the readout, 2 projected d a
// vector for φ: with four query heads under 2 operations a byte, so its floor is the bytes of S at
// the memory's bandwidth. Beyond 8 query heads a group (4 where d
// is no multiple of 4), each 8 (4) more read S again, from L2.
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/linear_kernels.h"

namespace t2r::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLanesPerRow = 8;    // threads that compute one projected feature together
constexpr int kVectorsAtOnce = 4;  // vectors that share a load of the map
constexpr int kRowsInFlight = 4;   // rows of S that a thread loads before it uses them

// Floats of an input, projection or feature vector in shared memory.
__host__ __device__ inline int RowFloats(const LinearParameters& p) {
  return p.width > p.k ? p.width : p.k;
}

// Shared memory of a team, in floats, a multiple of 4: v [d], projections and inputs (features
// later) [num_queries_per_kv + 1, RowFloats] each, z [k], denominators [num_queries_per_kv],
// partial outputs [row groups, heads, d] (before them, VectorFacts [num_queries_per_kv + 1]).
__host__ __device__ inline int TeamFloats(const LinearParameters& p, int threads, int heads,
                                          int columns) {
  const int row_groups = threads > columns ? threads / columns : 1;
  const int facts =
      (p.num_queries_per_kv + 1) * static_cast<int>(sizeof(VectorFacts) / sizeof(float));
  const int partial = row_groups * heads * p.d;
  const int floats = p.d + 2 * (p.num_queries_per_kv + 1) * RowFloats(p) + p.k +
                     p.num_queries_per_kv + (partial > facts ? partial : facts);
  return (floats + 3) / 4 * 4;
}

// Where a thread stands in its team.
struct Team {
  int thread;
  int threads;
  int warp;
  int warps;
  int lane;
};

// u = W x for all vectors, eight lanes a row of W. All threads of the block call it.
__device__ __forceinline__ void Project(const LinearParameters& p, const Team& team, bool active,
                                        int group, int first, int vectors, const float* x,
                                        int row_floats, float* u) {
  const int part = team.thread % kLanesPerRow;
  const int rows_at_once = team.threads / kLanesPerRow;
  const float* weight = p.weight + static_cast<int64_t>(active ? group : 0) * p.projected * p.d;
  for (int v0 = first; v0 < vectors; v0 += kVectorsAtOnce) {
    for (int r0 = 0; r0 < p.projected; r0 += rows_at_once) {
      const int r = r0 + team.thread / kLanesPerRow;
      float sum[kVectorsAtOnce] = {};
      if (active && r < p.projected) {
        for (int j = part; j < p.d; j += kLanesPerRow) {
          const float w = weight[r * p.d + j];
#pragma unroll
          for (int c = 0; c < kVectorsAtOnce; ++c) {
            if (v0 + c < vectors) sum[c] = fmaf(w, x[(v0 + c) * row_floats + j], sum[c]);
          }
        }
      }
#pragma unroll
      for (int c = 0; c < kVectorsAtOnce; ++c) {
        for (int offset = kLanesPerRow / 2; offset > 0; offset /= 2) {
          sum[c] += __shfl_xor_sync(kFullMask, sum[c], offset);
        }
        if (part == 0 && r < p.projected && v0 + c < vectors) {
          u[(v0 + c) * row_floats + r] = sum[c];
        }
      }
    }
  }
}

// What a warp finds out of vector `index` before its features.
__device__ __forceinline__ VectorFacts FindFacts(const LinearParameters& p, int index,
                                                 const float* x, const float* u) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  VectorFacts facts;
  facts.factor = index == 0 ? 1.0F : p.query_scale;
  if (p.kind == FeatureMapKind::kRfa) {
    float squares = 0;
    for (int j = lane; j < p.d; j += kWarpSize) {
      const float value = x[j] * facts.factor;
      squares = fmaf(value, value, squares);
    }
    facts.factor = facts.factor / fmaxf(sqrtf(WarpSum(squares)), 1e-12F);
  } else if (p.kind == FeatureMapKind::kHedgehog) {
    FindSoftmax(p, u, &facts);
  }
  return facts;
}

// A thread's part of S for up to kHeads query heads: update (unless `fresh` is false) and readout.
// Writes its partial outputs to sums [row groups, kHeads, d].
template <int kHeads, int kVector>
__device__ __forceinline__ void UpdateAndRead(const LinearParameters& p, const Team& team,
                                              bool fresh, const float* phi_k, const float* phi_q,
                                              int row_floats, int heads, const float* v, float* s,
                                              float* sums) {
  using Values = Pack<float, kVector>;
  const int columns = p.d / kVector;
  const int columns_at_once = columns < team.threads ? columns : team.threads;
  const int row_groups = team.threads / columns_at_once;
  const int row_group = team.thread / columns_at_once;
  if (row_group >= row_groups) return;
  for (int c = team.thread % columns_at_once; c < columns; c += columns_at_once) {
    Values value = {};
    if (fresh) value = *reinterpret_cast<const Values*>(v + c * kVector);
    float sum[kHeads][kVector] = {};
    for (int i0 = row_group; i0 < p.k; i0 += kRowsInFlight * row_groups) {
      Values row[kRowsInFlight] = {};
#pragma unroll
      for (int r = 0; r < kRowsInFlight; ++r) {
        const int i = i0 + r * row_groups;
        if (i < p.k) row[r] = *reinterpret_cast<const Values*>(s + i * p.d + c * kVector);
      }
#pragma unroll
      for (int r = 0; r < kRowsInFlight; ++r) {
        const int i = i0 + r * row_groups;
        if (i >= p.k) break;
        if (fresh) {
          const float phi = phi_k[i];
#pragma unroll
          for (int j = 0; j < kVector; ++j) row[r].v[j] = fmaf(phi, value.v[j], row[r].v[j]);
          *reinterpret_cast<Values*>(s + i * p.d + c * kVector) = row[r];
        }
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          if (h < heads) {
            const float phi = phi_q[h * row_floats + i];
#pragma unroll
            for (int j = 0; j < kVector; ++j) sum[h][j] = fmaf(phi, row[r].v[j], sum[h][j]);
          }
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h < heads) {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          sums[(row_group * kHeads + h) * p.d + c * kVector + j] = sum[h][j];
        }
      }
    }
  }
}

template <int kHeads, int kVector>
__global__ void __launch_bounds__(kThreads)
    LinearDecodeKernel(LinearParameters p, const RowTile* singles, int teams, int team_blocks) {
  T2R_DYNAMIC_SHARED(float, shared);
  const RowTile single = singles[blockIdx.x / team_blocks];
  if (single.slot < 0) return;
  Team team;
  team.threads = kThreads / teams;
  team.thread = static_cast<int>(threadIdx.x) % team.threads;
  team.warp = team.thread / kWarpSize;
  team.warps = team.threads / kWarpSize;
  team.lane = team.thread % kWarpSize;
  const int member = static_cast<int>(threadIdx.x) / team.threads;
  const int group = static_cast<int>(blockIdx.x) % team_blocks * teams + member;
  const bool active = group < p.groups;

  const int columns = p.d / kVector;
  const int row_floats = RowFloats(p);
  float* const v = shared + member * TeamFloats(p, team.threads, kHeads, columns);  // aligned
  float* const u = v + p.d;
  float* const x = u + (p.num_queries_per_kv + 1) * row_floats;
  float* const z = x + (p.num_queries_per_kv + 1) * row_floats;
  float* const den = z + p.k;
  float* const sums = den + p.num_queries_per_kv;
  auto* const facts = reinterpret_cast<VectorFacts*>(sums);

  // Vector 0 is the key, vectors 1 … num_queries_per_kv are the queries.
  const int first = p.updates() ? 0 : 1;
  const int vectors = p.reads() ? p.num_queries_per_kv + 1 : 1;
  const int64_t row = single.first_row;
  const bool projects = p.weight != nullptr;
  if (active) {
    float* const inputs = projects ? x : u;
    for (int at = team.thread + first * p.width; at < vectors * p.width; at += team.threads) {
      const int vector = at / p.width;
      const int j = at % p.width;
      inputs[vector * row_floats + j] =
          vector == 0
              ? p.key.Get(row, static_cast<int64_t>(group) * p.width + j)
              : p.q.Get(
                    row,
                    static_cast<int64_t>(group * p.num_queries_per_kv + vector - 1) * p.width + j);
    }
    if (p.updates()) {
      for (int j = team.thread; j < p.d; j += team.threads) {
        v[j] = p.v.Get(row, static_cast<int64_t>(group) * p.d + j);
      }
    }
  }
  __syncthreads();
  if (projects) {
    Project(p, team, active, group, first, vectors, x, row_floats, u);
    __syncthreads();
  }
  for (int vector = first + team.warp; vector < vectors; vector += team.warps) {
    const VectorFacts found =
        FindFacts(p, vector, x + vector * row_floats, u + vector * row_floats);
    if (team.lane == 0) facts[vector] = found;
  }
  __syncthreads();
  if (active) {
    for (int at = team.thread + first * p.k; at < vectors * p.k; at += team.threads) {
      const int vector = at / p.k;
      const int i = at % p.k;
      x[vector * row_floats + i] = Feature(p, group, i, u + vector * row_floats, facts[vector]);
    }
  }
  __syncthreads();
  const float* const phi_k = x;
  const float* const phi_q = x + row_floats;

  if (active) {
    float* const global_z = p.Z(single.slot, group);
    for (int i = team.thread; i < p.k; i += team.threads) {
      float value = global_z[i];
      if (p.updates()) {
        value += phi_k[i];
        global_z[i] = value;
      }
      z[i] = value;
    }
  }
  __syncthreads();
  if (p.reads()) {
    for (int h = team.warp; h < p.num_queries_per_kv; h += team.warps) {
      float sum = 0;
      for (int i = team.lane; i < p.k; i += kWarpSize) {
        if (active) sum = fmaf(phi_q[h * row_floats + i], z[i], sum);
      }
      sum = WarpSum(sum);
      if (team.lane == 0) den[h] = p.Denominator(sum);
    }
  }
  const int columns_at_once = columns < team.threads ? columns : team.threads;
  const int row_groups = team.threads / columns_at_once;
  for (int h0 = 0; h0 == 0 || (p.reads() && h0 < p.num_queries_per_kv); h0 += kHeads) {
    const int heads =
        p.reads() ? (p.num_queries_per_kv - h0 < kHeads ? p.num_queries_per_kv - h0 : kHeads) : 0;
    if (active) {
      UpdateAndRead<kHeads, kVector>(p, team, p.updates() && h0 == 0, phi_k,
                                     phi_q + h0 * row_floats, row_floats, heads, v,
                                     p.S(single.slot, group), sums);
    }
    __syncthreads();
    if (active) {
      for (int at = team.thread; at < heads * p.d; at += team.threads) {
        const int h = at / p.d;
        const int j = at % p.d;
        float sum = 0;
        for (int r = 0; r < row_groups; ++r) sum += sums[(r * kHeads + h) * p.d + j];
        p.out.Set(row, static_cast<int64_t>(group * p.num_queries_per_kv + h0 + h) * p.d + j,
                  sum / den[h0 + h]);
      }
    }
    __syncthreads();
  }
}

template <int kHeads, int kVector>
void LaunchDecode(const OpContext& context, const LinearParameters& p) {
  // As many threads a group as it has work for: 8 packs of S each, or a block.
  const int64_t packs = static_cast<int64_t>(p.k) * p.d / kVector;
  int teams = 4;
  while (teams > 1 && (packs > kThreads / teams * 8LL || teams / 2 >= p.groups)) teams /= 2;
  const int team_blocks = (p.groups + teams - 1) / teams;
  const size_t bytes = static_cast<size_t>(teams) *
                       TeamFloats(p, kThreads / teams, kHeads, p.d / kVector) * sizeof(float);
  Launch({"linear_decode", dim3(context.batch.single_count * team_blocks), dim3(kThreads), bytes,
          context.stream},
         LinearDecodeKernel<kHeads, kVector>, p, context.batch.singles, teams, team_blocks);
}

template <int kVector>
void ChooseHeads(const OpContext& context, const LinearParameters& p) {
  if (p.num_queries_per_kv == 1) {
    LaunchDecode<1, kVector>(context, p);
  } else if (p.num_queries_per_kv == 2) {
    LaunchDecode<2, kVector>(context, p);
  } else {
    if constexpr (kVector > 1) {
      if (p.num_queries_per_kv > 4) return LaunchDecode<8, kVector>(context, p);
    }
    LaunchDecode<4, kVector>(context, p);
  }
}

bool Aligned(const LinearParameters& p) {
  return p.d % 4 == 0 && p.slot_stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(p.state) % (4 * sizeof(float)) == 0;
}

}  // namespace

void DecodeLinearAttention(const OpContext& context, const LinearParameters& parameters) {
  if (context.batch.single_count == 0) return;
  if (Aligned(parameters)) {
    ChooseHeads<4>(context, parameters);
  } else {
    ChooseHeads<1>(context, parameters);
  }
}

}  // namespace t2r::cuda

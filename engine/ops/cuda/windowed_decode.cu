// Windowed attention of rows that stand alone.
//
// A block takes one group of one row, in this order: the keys that the row folds (every C-th row
// folds C of them, any other none) go into S and z; the row's own key and value go into the window;
// the group's query heads take their logits over the window, then φ; then the weighted values of
// the window and the weighted rows of S. An element's sum goes over places in the order of
// positions, so it depends on nothing else in the batch.
//
// Bytes of a row and group, with keys and values of b bytes: 2 b d (w + n) to 2 b d (w + C − 1 + n)
// of keys and values, 4 M (d + 1) of S and z read, as much written once in C rows, 2 b d written to
// the window, and 8 M d of A and E, which stay in L2. Operations a query head: 4 d (w + n) for the
// window, 4 M d for the far part and its map; a group's fold 4 M d a key.
#include <algorithm>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/windowed_kernels.h"

namespace t2r::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kLanesPerDot = 8;      // threads that take one dot product together
constexpr int kHeadsAtOnce = 4;      // query heads that share a load
constexpr int kFoldFloats = 8192;    // of shared memory for keys that are folded together
constexpr int kLogitFloats = 16384;  // of shared memory for logits

// Keys that a block folds at once: what fits, a multiple of 4.
__host__ __device__ inline int FoldBatch(const WindowedParameters& p) {
  const int width = 2 * (p.map.d > p.map.k ? p.map.d : p.map.k) + p.map.d;
  const int fitting = kFoldFloats / width / 4 * 4;
  const int most = fitting < 4 ? 4 : fitting;
  const int wanted = (p.fold + 3) / 4 * 4;
  return wanted < most ? wanted : most;
}
// Floats of a vector that is an input, a projection or features.
__host__ __device__ inline int VectorFloats(const WindowedParameters& p) {
  return p.map.d > p.map.k ? p.map.d : p.map.k;
}
// Places of the window whose logits a row takes at most.
__host__ __device__ inline int MaxPlaces(const WindowedParameters& p) { return p.ring + p.sinks; }
// Query heads whose logits fit in shared memory at once.
__host__ __device__ inline int HeadsAtOnce(const WindowedParameters& p) {
  const int places = MaxPlaces(p) + p.map.k;
  const int fitting = places > 0 ? kLogitFloats / places : kHeadsAtOnce;
  const int most = fitting < kHeadsAtOnce ? (fitting < 1 ? 1 : fitting) : kHeadsAtOnce;
  return p.map.num_queries_per_kv < most ? p.map.num_queries_per_kv : most;
}
// Threads that share the columns of a head's output.
__host__ __device__ inline int OutputGroups(const WindowedParameters& p) {
  return p.map.d < kThreads ? kThreads / p.map.d : 1;
}

// Shared memory in floats: what folding takes, and later, in the same place, what a round of query
// heads takes: q̂, q̂ for the sinks, q as φ sees it, projections; logits and φ; denominators and sums
// of outputs.
__host__ __device__ inline int FoldShared(const WindowedParameters& p) {
  const int batch = FoldBatch(p);
  return batch * (2 * VectorFloats(p) + p.map.d) +
         batch * static_cast<int>(sizeof(VectorFacts) / sizeof(float));
}
__host__ __device__ inline int HeadShared(const WindowedParameters& p) {
  const int heads = HeadsAtOnce(p);
  return heads * (2 * p.map.d + 2 * VectorFloats(p) + MaxPlaces(p) + p.map.k + 1) +
         heads * OutputGroups(p) * p.map.d;
}

// u[v] = W x[v] for `vectors` vectors, eight lanes a row of W [rows, d]. All threads call it.
__device__ __forceinline__ void Project(const float* weight, int rows, int d, int vectors,
                                        const float* x, int stride, float* u) {
  const int part = static_cast<int>(threadIdx.x) % kLanesPerDot;
  const int rows_at_once = kThreads / kLanesPerDot;
  for (int v0 = 0; v0 < vectors; v0 += kHeadsAtOnce) {
    for (int r0 = 0; r0 < rows; r0 += rows_at_once) {
      const int r = r0 + static_cast<int>(threadIdx.x) / kLanesPerDot;
      float sum[kHeadsAtOnce] = {};
      if (r < rows) {
        for (int j = part; j < d; j += kLanesPerDot) {
          const float w = weight[static_cast<int64_t>(r) * d + j];
#pragma unroll
          for (int c = 0; c < kHeadsAtOnce; ++c) {
            if (v0 + c < vectors) sum[c] = fmaf(w, x[(v0 + c) * stride + j], sum[c]);
          }
        }
      }
#pragma unroll
      for (int c = 0; c < kHeadsAtOnce; ++c) {
        for (int offset = kLanesPerDot / 2; offset > 0; offset /= 2) {
          sum[c] += __shfl_xor_sync(kFullMask, sum[c], offset);
        }
        if (part == 0 && r < rows && v0 + c < vectors) u[(v0 + c) * stride + r] = sum[c];
      }
    }
  }
}

// What the map needs of vector x with projection u before its elements. A warp calls it.
__device__ __forceinline__ VectorFacts FactsOf(const WindowedParameters& p, bool query, int group,
                                               const float* x, const float* u) {
  VectorFacts facts;
  facts.factor = query ? p.map.query_scale : 1.0F;
  if (p.codebook()) {
    if (!query) FindCodebookSoftmax(p, group, u, &facts);
    return facts;
  }
  if (p.map.kind == FeatureMapKind::kRfa) {
    float squares = 0;
    for (int j = static_cast<int>(threadIdx.x) % kWarpSize; j < p.map.d; j += kWarpSize) {
      const float value = x[j] * facts.factor;
      squares = fmaf(value, value, squares);
    }
    facts.factor = facts.factor / fmaxf(sqrtf(WarpSum(squares)), 1e-12F);
  } else if (p.map.kind == FeatureMapKind::kHedgehog) {
    FindSoftmax(p.map, u, &facts);
  }
  return facts;
}

// Takes keys [begin, end) into S and z, those of the sinks left out; `row` folds them.
// shared: FoldShared floats. All threads call it.
__device__ __forceinline__ void Fold(const WindowedParameters& p, const RowTile& single, int group,
                                     int64_t begin, int64_t end, float* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int d = p.map.d;
  const int k = p.map.k;
  const int stride = VectorFloats(p);
  const int batch = FoldBatch(p);
  float* const x = shared;              // inputs, later features
  float* const u = x + batch * stride;  // projections (of elu, the inputs)
  float* const v = u + batch * stride;  // values
  auto* const facts = reinterpret_cast<VectorFacts*>(v + batch * d);
  float* const s = p.map.S(single.slot, group);
  float* const z = p.map.Z(single.slot, group);
  const RowView window = p.Window(single.slot);
  const int64_t row = single.first_row;

  for (int64_t j0 = begin; j0 < end; j0 += batch) {
    const int keys = static_cast<int>(end - j0 < batch ? end - j0 : batch);
    __syncthreads();
    for (int at = thread; at < keys * d; at += kThreads) {
      const int64_t j = j0 + at / d;
      const int i = at % d;
      float value;
      float key;
      if (p.window == 0) {
        value = p.map.v.Get(row, static_cast<int64_t>(group) * d + i);
        key = Rotated(p.map.key, row, static_cast<int64_t>(group) * d, d, i, p.rotates_keys(),
                      p.cos_sin, row);
      } else {
        const int64_t place = j % p.ring;
        value = window.Get(p.ValueRow(group, place), i);
        key = window.Get(p.KeyRow(group, place), i);
        if (p.turns_back()) {
          const int half = d / 2;
          const int pair = i < half ? i : i - half;
          const float other = window.Get(p.KeyRow(group, place), i < half ? i + half : pair);
          const TurnedPair turned =
              TurnBack(i < half ? key : other, i < half ? other : key, p.cos_sin, row,
                       p.fold_cos_sin + (single.position - j - p.window) * d, d, pair);
          key = i < half ? turned.low : turned.high;
        }
      }
      v[at] = value;
      x[at / d * stride + i] = key;
      if (p.map.projected == 0) u[at / d * stride + i] = key;
    }
    __syncthreads();
    if (p.map.projected > 0) {
      Project(p.map.weight + static_cast<int64_t>(group) * p.map.projected * d, p.map.projected, d,
              keys, x, stride, u);
      __syncthreads();
    }
    for (int c = thread / kWarpSize; c < keys; c += kWarps) {
      const VectorFacts found = FactsOf(p, false, group, x + c * stride, u + c * stride);
      if (thread % kWarpSize == 0) facts[c] = found;
    }
    __syncthreads();
    for (int at = thread; at < keys * k; at += kThreads) {
      const int c = at / k;
      const int m = at % k;
      const int64_t j = j0 + c;
      const bool sink = p.window > 0 && j < p.sinks;
      x[c * stride + m] =
          sink ? 0.0F
               : KeyFeature(p, group, m, u + c * stride, facts[c]) * p.Decay(group, end - 1 - j);
    }
    __syncthreads();
    const float kept = j0 == begin ? p.Decay(group, end - begin) : 1.0F;
    for (int at = thread; at < k * (d + 1); at += kThreads) {
      const bool in_s = at < k * d;
      const int m = in_s ? at / d : at - k * d;
      const int i = at % d;
      float* const home = in_s ? s + at : z + m;
      float sum = *home * kept;
      for (int c = 0; c < keys; ++c) {
        const float f = x[c * stride + m];
        sum = in_s ? fmaf(f, v[c * d + i], sum) : sum + f;
      }
      *home = sum;
    }
  }
  __syncthreads();
}

// The row's own rotated key and its value into the window.
__device__ __forceinline__ void Store(const WindowedParameters& p, const RowTile& single,
                                      int group) {
  const RowView window = p.Window(single.slot);
  const int d = p.map.d;
  const int64_t column = static_cast<int64_t>(group) * d;
  for (int i = static_cast<int>(threadIdx.x); i < d; i += kThreads) {
    const float key = Rotated(p.map.key, single.first_row, column, d, i, p.rotates_keys(),
                              p.cos_sin, single.first_row);
    const float value = p.map.v.Get(single.first_row, column + i);
    const int64_t place = single.position % p.ring;
    window.Set(p.KeyRow(group, place), i, key);
    window.Set(p.ValueRow(group, place), i, value);
    if (single.position < p.sinks) {
      window.Set(p.KeyRow(group, p.ring + single.position), i, key);
      window.Set(p.ValueRow(group, p.ring + single.position), i, value);
    }
  }
}

// The places that a row attends to: sinks first, then positions from `begin` on.
struct Near {
  int sinks;
  int64_t begin;
  int count;  // the sinks included

  __device__ __forceinline__ int64_t Place(const WindowedParameters& p, int at) const {
    return at < sinks ? p.ring + at : (begin + at - sinks) % p.ring;
  }
};
__device__ __forceinline__ Near NearOf(const WindowedParameters& p, int64_t position) {
  Near near = {0, 0, 0};
  if (p.window == 0) return near;
  near.sinks = position + 1 < p.sinks ? static_cast<int>(position + 1) : p.sinks;
  const int64_t folded = p.FoldedBefore(position);
  near.begin = folded > p.sinks ? folded : p.sinks;
  near.count = near.sinks;
  if (near.begin <= position) near.count += static_cast<int>(position + 1 - near.begin);
  return near;
}

__global__ void __launch_bounds__(kThreads)
    WindowedDecodeKernel(WindowedParameters p, const RowTile* singles) {
  T2R_DYNAMIC_SHARED(float, shared);
  const RowTile single = singles[blockIdx.x];
  if (single.slot < 0) return;
  const int group = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  const int d = p.map.d;
  const int k = p.map.k;
  const int64_t row = single.first_row;
  const int64_t position = single.position;

  if (p.map.updates()) {
    const int64_t end = p.FoldedBefore(position);
    const int64_t begin = p.window == 0 ? position : p.FoldedBefore(position - 1);
    if (k > 0 && begin < end) Fold(p, single, group, begin, end, shared);
    if (p.window > 0) Store(p, single, group);
  }
  if (!p.map.reads()) return;
  __syncthreads();

  const int stride = VectorFloats(p);
  const int most = HeadsAtOnce(p);
  const int places = MaxPlaces(p);
  const int outputs = OutputGroups(p);
  float* const turned = shared;               // q̂ [most, d]
  float* const to_sinks = turned + most * d;  // [most, d]
  float* const x = to_sinks + most * d;       // q as φ sees it, later φ [most, stride]
  float* const u = x + most * stride;         // [most, stride]
  float* const logits = u + most * stride;    // [most, places], later weights
  float* const far = logits + most * places;  // weights of S's rows [most, k]
  float* const den = far + most * k;          // [most]
  float* const sums = den + most;             // [outputs, most, d]
  const Near near = NearOf(p, position);
  const RowView window = p.Window(single.slot);
  const bool apart = p.sink_cos_sin != nullptr && position > p.sink_position && p.rope;
  RowView sink_row;
  sink_row.data = const_cast<float*>(p.sink_cos_sin);

  for (int h0 = 0; h0 < p.map.num_queries_per_kv; h0 += most) {
    const int heads = p.map.num_queries_per_kv - h0 < most ? p.map.num_queries_per_kv - h0 : most;
    const int head0 = group * p.map.num_queries_per_kv + h0;
    for (int at = thread; at < heads * d; at += kThreads) {
      const int h = at / d;
      const int i = at % d;
      const int64_t column = static_cast<int64_t>(head0 + h) * d;
      const float own = p.map.q.Get(row, column + i);
      const float rotated = Rotated(p.map.q, row, column, d, i, p.rope, p.cos_sin, row);
      turned[at] = rotated;
      to_sinks[at] = apart ? Rotated(p.map.q, row, column, d, i, true, sink_row, 0) : rotated;
      const float seen = p.rope_features ? rotated : own;
      x[h * stride + i] = seen;
      if (p.map.projected == 0) u[h * stride + i] = seen;
    }
    __syncthreads();
    if (p.map.projected > 0) {
      Project(p.query_weight + static_cast<int64_t>(group) * p.map.projected * d, p.map.projected,
              d, heads, x, stride, u);
    }
    // Logits, eight lanes a place.
    const int part = thread % kLanesPerDot;
    for (int at0 = 0; at0 < near.count; at0 += kThreads / kLanesPerDot) {
      const int at = at0 + thread / kLanesPerDot;
      float sum[kHeadsAtOnce] = {};
      if (at < near.count) {
        const int64_t key_row = p.KeyRow(group, near.Place(p, at));
        const float* const q = at < near.sinks ? to_sinks : turned;
        for (int i = part; i < d; i += kLanesPerDot) {
          const float key = window.Get(key_row, i);
#pragma unroll
          for (int h = 0; h < kHeadsAtOnce; ++h) {
            if (h < heads) sum[h] = fmaf(key, q[h * d + i], sum[h]);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        for (int offset = kLanesPerDot / 2; offset > 0; offset /= 2) {
          sum[h] += __shfl_xor_sync(kFullMask, sum[h], offset);
        }
        if (part == 0 && at < near.count && h < heads) {
          logits[h * places + at] = sum[h] * p.map.query_scale;
        }
      }
    }
    __syncthreads();
    // A warp a head: weights and the denominator, all divided by e^high.
    const float* const z = p.map.Z(single.slot, group);
    for (int h = warp; h < heads; h += kWarps) {
      const int head = head0 + h;
      float near_high = -INFINITY;
      for (int at = lane; at < near.count; at += kWarpSize) {
        near_high = fmaxf(near_high, logits[h * places + at]);
      }
      near_high = WarpMax(near_high);
      float high = near_high;
      VectorFacts found;
      if (p.codebook()) {
        float far_high = -INFINITY;
        for (int m = lane; m < k; m += kWarpSize) {
          float exponent = CodebookExponent(p, head, m, u[h * stride + m]);
          if (p.window > 0) exponent = fminf(exponent, near_high + kFarClamp);
          far[h * k + m] = exponent;
          if (z[m] > 0) {
            far_high = fmaxf(far_high, p.window > 0 ? exponent : exponent + logf(z[m]));
          }
        }
        high = fmaxf(high, WarpMax(far_high));
      } else if (k > 0) {
        found = FactsOf(p, true, group, x + h * stride, u + h * stride);
        high = fmaxf(high, p.far_bias[head]);
      }
      float sum = 0;
      for (int at = lane; at < near.count; at += kWarpSize) {
        const float weight = expf(logits[h * places + at] - high);
        logits[h * places + at] = weight;
        sum += weight;
      }
      for (int m = lane; m < k; m += kWarpSize) {
        float weight;
        if (p.codebook()) {
          weight = z[m] > 0 ? expf(far[h * k + m] - high) : 0.0F;
        } else {
          weight = Feature(p.map, group, m, u + h * stride, found) * expf(p.far_bias[head] - high);
        }
        far[h * k + m] = weight;
        sum = fmaf(weight, z[m], sum);
      }
      sum = WarpSum(sum);
      if (lane == 0) den[h] = sum;
    }
    __syncthreads();
    // A thread a column and part of the places and of S's rows.
    const int columns = d < kThreads ? d : kThreads;
    const int output = thread / columns;
    const float* const s = p.map.S(single.slot, group);
    if (output < outputs) {
      for (int i = thread % columns; i < d; i += columns) {
        float sum[kHeadsAtOnce] = {};
        for (int at = output; at < near.count; at += outputs) {
          const float value = window.Get(p.ValueRow(group, near.Place(p, at)), i);
#pragma unroll
          for (int h = 0; h < kHeadsAtOnce; ++h) {
            if (h < heads) sum[h] = fmaf(logits[h * places + at], value, sum[h]);
          }
        }
        for (int m = output; m < k; m += outputs) {
          const float value = s[static_cast<int64_t>(m) * d + i];
#pragma unroll
          for (int h = 0; h < kHeadsAtOnce; ++h) {
            if (h < heads) sum[h] = fmaf(far[h * k + m], value, sum[h]);
          }
        }
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; ++h) {
          if (h < heads) sums[(output * most + h) * d + i] = sum[h];
        }
      }
    }
    __syncthreads();
    for (int at = thread; at < heads * d; at += kThreads) {
      const int h = at / d;
      const int i = at % d;
      float sum = 0;
      for (int part_of = 0; part_of < outputs; ++part_of) sum += sums[(part_of * most + h) * d + i];
      p.map.out.Set(row, static_cast<int64_t>(head0 + h) * d + i, sum / den[h]);
    }
    __syncthreads();
  }
}

}  // namespace

void DecodeWindowedAttention(const OpContext& context, const WindowedParameters& parameters) {
  if (context.batch.single_count == 0) return;
  const size_t bytes =
      static_cast<size_t>(std::max(FoldShared(parameters), HeadShared(parameters))) * sizeof(float);
  Launch({"windowed_decode", dim3(context.batch.single_count, parameters.map.groups),
          dim3(kThreads), bytes, context.stream},
         WindowedDecodeKernel, parameters, context.batch.singles);
}

}  // namespace t2r::cuda

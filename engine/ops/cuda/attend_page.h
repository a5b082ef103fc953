// What the kernels of softmax attention do with one page of keys and values.
#pragma once

#include <cfloat>
#include <cstdint>

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/full_attention.h"

namespace t2r::cuda {

inline constexpr int kAttendThreads = 256;
inline constexpr int kAttendWarps = kAttendThreads / kWarpSize;
inline constexpr int kSplits = 16;
inline constexpr int kPositionsPerLane = kKvPageSize / kWarpSize;

enum class KeySource { kPages, kSourcePages, kSegment };

// What the kernels take. Strides in elements of T.
template <typename T>
struct AttendParameters {
  KeySource source;
  int groups;
  int num_queries_per_kv;  // query heads a group
  int d;
  float scale;
  const T* q;
  int64_t q_stride;
  T* out;
  int64_t out_stride;
  const T* k;  // kSegment: rows of the batch; else the pages
  const T* v;
  int64_t k_stride;  // kSegment: between rows; else between pages
  int64_t v_stride;
  const Segment* segments;
  const int32_t* pages;
};

// Keys and values of one page and group: rows of d elements, `stride` apart.
template <typename T>
struct KeyPage {
  const T* k;
  const T* v;
  int64_t k_stride;
  int64_t v_stride;
};

template <typename T>
__device__ __forceinline__ KeyPage<T> PageOf(const AttendParameters<T>& p, const Segment& segment,
                                             int group, int64_t page) {
  const int64_t d = p.d;
  if (p.source == KeySource::kSegment) {
    const int64_t row = segment.first_row + page * kKvPageSize;
    return {p.k + row * p.k_stride + group * d, p.v + row * p.v_stride + group * d, p.k_stride,
            p.v_stride};
  }
  const int32_t first =
      p.source == KeySource::kPages ? segment.first_page : segment.first_source_page;
  const T* keys = p.k + p.pages[first + page] * p.k_stride + group * kKvPageSize * d;
  return {keys, keys + p.groups * kKvPageSize * d, d, d};
}

// Keys that a row attends to: the first `n` positions.
template <typename T>
__device__ __forceinline__ int64_t KeysOf(const AttendParameters<T>& p, const Segment& segment,
                                          const RowTile& tile, int row) {
  if (p.source == KeySource::kPages) return tile.position + row + 1;
  return p.source == KeySource::kSourcePages ? segment.source_rows : segment.rows;
}

__device__ __forceinline__ int64_t PagesPerSplit(int64_t pages) {
  return (pages + kSplits - 1) / kSplits;
}

// What a pair has gathered: the running maximum and sum, and a lane's columns lane, lane + 32 … of
// the weighted values.
template <int kColumns>
struct Gathered {
  float high;
  float sum;
  float y[kColumns];

  __device__ __forceinline__ void Clear() {
    high = -FLT_MAX;
    sum = 0.0F;
    for (int c = 0; c < kColumns; ++c) y[c] = 0.0F;
  }
  // Takes in what another run of keys gave.
  __device__ __forceinline__ void Merge(const Gathered& other) {
    const float higher = fmaxf(high, other.high);
    const float mine = expf(high - higher);
    const float others = expf(other.high - higher);
    high = higher;
    sum = sum * mine + other.sum * others;
    for (int c = 0; c < kColumns; ++c) y[c] = y[c] * mine + other.y[c] * others;
  }
};

// Floats of a pair's Gathered in scratch memory: high, sum, y.
__host__ __device__ constexpr int PartialFloats(int d) { return d + 2; }
// Elements between rows of a page in shared memory: an odd number of 4-byte words.
template <typename T>
__host__ __device__ constexpr int PageStride(int d) {
  return sizeof(T) == 4 ? d + 1 - d % 2 : (d + 1) / 2 * 2 + ((d + 1) / 2 % 2 == 0 ? 2 : 0);
}

// Copies rows [0, n) of a page to shared memory, zeros for the rest.
template <typename T>
__device__ __forceinline__ void LoadPage(const T* from, int64_t stride, int d, int n, T* to) {
  const int to_stride = PageStride<T>(d);
  for (int at = static_cast<int>(threadIdx.x); at < kKvPageSize * d; at += kAttendThreads) {
    const int j = at / d;
    const int i = at % d;
    to[j * to_stride + i] = j < n ? from[j * stride + i] : FromFloat<T>(0.0F);
  }
}

// A warp's pairs take in one page of which pair i sees the first n[i] positions. `page` is the
// block's buffer; all threads of the block call this together. queries: the warp's, [kPairs, d];
// weights: the warp's, [kPairs, kKvPageSize].
template <typename T, int kColumns, int kPairs>
__device__ __forceinline__ void TakePage(const KeyPage<T>& keys, int d, int longest,
                                         const int (&n)[kPairs], T* page, const float* queries,
                                         float* weights, Gathered<kColumns> (&run)[kPairs]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int stride = PageStride<T>(d);
  __syncthreads();  // the values of the page before have been used
  LoadPage(keys.k, keys.k_stride, d, longest, page);
  __syncthreads();
  float scores[kPairs][kPositionsPerLane] = {};
  for (int i = 0; i < d; ++i) {
    float key[kPositionsPerLane];
    for (int s = 0; s < kPositionsPerLane; ++s) {
      key[s] = ToFloat(page[(lane + s * kWarpSize) * stride + i]);
    }
    for (int pair = 0; pair < kPairs; ++pair) {
      const float q = queries[pair * d + i];
      for (int s = 0; s < kPositionsPerLane; ++s) {
        scores[pair][s] = fmaf(q, key[s], scores[pair][s]);
      }
    }
  }
  for (int pair = 0; pair < kPairs; ++pair) {
    if (n[pair] <= 0) continue;
    float high = run[pair].high;
    for (int s = 0; s < kPositionsPerLane; ++s) {
      if (lane + s * kWarpSize < n[pair]) high = fmaxf(high, scores[pair][s]);
    }
    high = WarpMax(high);
    float sum = 0.0F;
    for (int s = 0; s < kPositionsPerLane; ++s) {
      const int j = lane + s * kWarpSize;
      const float weight = j < n[pair] ? expf(scores[pair][s] - high) : 0.0F;
      weights[pair * kKvPageSize + j] = weight;
      sum += weight;
    }
    const float rescale = expf(run[pair].high - high);
    run[pair].high = high;
    run[pair].sum = run[pair].sum * rescale + WarpSum(sum);
    for (int c = 0; c < kColumns; ++c) run[pair].y[c] *= rescale;
  }
  __syncthreads();  // the keys have been used, the weights are there
  LoadPage(keys.v, keys.v_stride, d, longest, page);
  __syncthreads();
  for (int j = 0; j < longest; ++j) {
    for (int c = 0; c < kColumns; ++c) {
      const int column = lane + c * kWarpSize;
      const float value = column < d ? ToFloat(page[j * stride + column]) : 0.0F;
      for (int pair = 0; pair < kPairs; ++pair) {
        if (j < n[pair]) {
          run[pair].y[c] = fmaf(weights[pair * kKvPageSize + j], value, run[pair].y[c]);
        }
      }
    }
  }
}

template <int kColumns>
__device__ __forceinline__ void StorePartial(const Gathered<kColumns>& run, int d, float* to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if (lane == 0) {
    to[0] = run.high;
    to[1] = run.sum;
  }
  for (int c = 0; c < kColumns; ++c) {
    if (lane + c * kWarpSize < d) to[2 + lane + c * kWarpSize] = run.y[c];
  }
}

template <typename T, int kColumns>
__device__ __forceinline__ void StoreOutput(const AttendParameters<T>& p,
                                            const Gathered<kColumns>& total, int64_t row,
                                            int head) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  T* to = p.out + row * p.out_stride + static_cast<int64_t>(head) * p.d;
  for (int c = 0; c < kColumns; ++c) {
    const int column = lane + c * kWarpSize;
    if (column < p.d) to[column] = FromFloat<T>(total.y[c] / total.sum);
  }
}

}  // namespace t2r::cuda

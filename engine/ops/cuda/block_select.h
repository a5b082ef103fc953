// What a block of threads finds out together about a row of values: sums, the largest, thresholds
// and ranks. All integers, or in a fixed order, so results do not depend on how threads are
// scheduled. All threads of the block call every function, with the same arguments, and get the
// same result.
#pragma once

#include <cstdint>

#include "engine/ops/cuda/cuda_compat.h"

namespace t2r::cuda {

inline constexpr int kSelectThreads = 512;
inline constexpr int kSelectWarps = kSelectThreads / kWarpSize;
inline constexpr int kDigits = 256;
inline constexpr int kHistograms = 8;  // copies, against threads that meet at one digit

// Shared memory of these functions.
struct SelectMemory {
  uint64_t warp_words[kSelectWarps];
  double warp_sums[kSelectWarps];
  float warp_values[kSelectWarps];
  int warp_indices[kSelectWarps];
  uint64_t before;
  int found;
  unsigned low[kHistograms][kDigits];  // a histogram of 64-bit masses in two words
  unsigned high[kHistograms][kDigits];
};

__device__ __forceinline__ int ThreadOf() { return static_cast<int>(threadIdx.x); }

// The largest value, the lowest index among equals. NaN never wins; index INT_MAX: all were NaN.
struct Largest {
  float value = -INFINITY;
  int index = 0x7fffffff;

  __device__ __forceinline__ void Take(float other, int other_index) {
    if (other > value || (other == value && other_index < index)) {
      value = other;
      index = other_index;
    }
  }
};

template <typename Get>
__device__ __forceinline__ Largest BlockLargest(SelectMemory& memory, int size, const Get& get) {
  Largest mine;
  for (int i = ThreadOf(); i < size; i += kSelectThreads) mine.Take(get(i), i);
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(kFullMask, mine.value, offset);
    const int index = __shfl_xor_sync(kFullMask, mine.index, offset);
    mine.Take(value, index);
  }
  __syncthreads();
  if (ThreadOf() % kWarpSize == 0) {
    memory.warp_values[ThreadOf() / kWarpSize] = mine.value;
    memory.warp_indices[ThreadOf() / kWarpSize] = mine.index;
  }
  __syncthreads();
  Largest best;
#pragma unroll 4  // registers
  for (int w = 0; w < kSelectWarps; ++w) best.Take(memory.warp_values[w], memory.warp_indices[w]);
  return best;
}

// Σ get(i), in float64.
template <typename Get>
__device__ __forceinline__ double BlockSum(SelectMemory& memory, int size, const Get& get) {
  double sum = 0;
  for (int i = ThreadOf(); i < size; i += kSelectThreads) sum += get(i);
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kFullMask, sum, offset);
  }
  __syncthreads();
  if (ThreadOf() % kWarpSize == 0) memory.warp_sums[ThreadOf() / kWarpSize] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll 4  // registers
  for (int w = 0; w < kSelectWarps; ++w) sum += memory.warp_sums[w];
  return sum;
}

// Indices [first, last) that a warp goes through in order.
struct WarpRange {
  int first;
  int last;

  __device__ __forceinline__ WarpRange(int size, int warp) {
    const int steps = (size + kSelectThreads - 1) / kSelectThreads;
    first = warp * steps * kWarpSize;
    last = first + steps * kWarpSize;
    if (last > size) last = size;
  }
};

// Σ mass(i), exactly; leaves each warp's part in memory.warp_words.
template <typename Mass>
__device__ __forceinline__ uint64_t BlockMass(SelectMemory& memory, int size, const Mass& mass) {
  const WarpRange range(size, ThreadOf() / kWarpSize);
  uint64_t sum = 0;
  for (int i = range.first + ThreadOf() % kWarpSize; i < range.last; i += kWarpSize) sum += mass(i);
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kFullMask, sum, offset);
  }
  __syncthreads();
  if (ThreadOf() % kWarpSize == 0) memory.warp_words[ThreadOf() / kWarpSize] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll 4  // registers
  for (int w = 0; w < kSelectWarps; ++w) sum += memory.warp_words[w];
  return sum;
}

// The lowest i with mass(0) + … + mass(i) > target, which must be less than the whole mass. Call
// it right after BlockMass with the same mass.
template <typename Mass>
__device__ __forceinline__ int FindInMass(SelectMemory& memory, int size, uint64_t target,
                                          const Mass& mass) {
  uint64_t before = 0;
  int warp = 0;
  while (warp + 1 < kSelectWarps && before + memory.warp_words[warp] <= target) {
    before += memory.warp_words[warp++];
  }
  if (ThreadOf() / kWarpSize == warp) {
    const WarpRange range(size, warp);
    const int lane = ThreadOf() % kWarpSize;
    for (int first = range.first; first < range.last; first += kWarpSize) {
      uint64_t sum = first + lane < range.last ? mass(first + lane) : 0;
      for (int offset = 1; offset < kWarpSize; offset *= 2) {
        const uint64_t lower = __shfl_up_sync(kFullMask, sum, offset);
        if (lane >= offset) sum += lower;
      }
      const unsigned beyond = __ballot_sync(kFullMask, before + sum > target ? 1 : 0);
      if (beyond != 0) {
        if (lane == 0) memory.found = first + __ffs(beyond) - 1;
        break;
      }
      before += __shfl_sync(kFullMask, sum, kWarpSize - 1);
    }
  }
  __syncthreads();
  return memory.found;
}

// The largest key such that the mass of keys at or above it reaches `wanted` (1 … the whole mass),
// and the mass of the keys above it.
struct Threshold {
  unsigned key;
  uint64_t above;
};

// key(i) and mass(i) of index i; four passes, eight bits of the key each.
template <typename Key, typename Mass>
__device__ __forceinline__ Threshold BlockThreshold(SelectMemory& memory, int size, uint64_t wanted,
                                                    const Key& key, const Mass& mass) {
  Threshold result = {0, 0};
  const int copy = ThreadOf() / kWarpSize % kHistograms;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int at = ThreadOf(); at < kHistograms * kDigits; at += kSelectThreads) {
      memory.low[at / kDigits][at % kDigits] = 0;
      memory.high[at / kDigits][at % kDigits] = 0;
    }
    __syncthreads();
    for (int i = ThreadOf(); i < size; i += kSelectThreads) {
      const unsigned mine = key(i);
      // The digits above this one, which the 64-bit shift drops for the first.
      if ((uint64_t{mine} >> (shift + 8)) != (uint64_t{result.key} >> (shift + 8))) continue;
      const uint64_t amount = mass(i);
      if (amount == 0) continue;
      const unsigned digit = mine >> shift & (kDigits - 1);
      const auto low = static_cast<unsigned>(amount);
      auto high = static_cast<unsigned>(amount >> 32);
      const unsigned old = atomicAdd(&memory.low[copy][digit], low);
      if (old + low < old) ++high;
      if (high != 0) atomicAdd(&memory.high[copy][digit], high);
    }
    __syncthreads();
    // Warp 0 looks for the digit, each lane among eight, from the highest.
    if (ThreadOf() < kWarpSize) {
      constexpr int kEach = kDigits / kWarpSize;
      uint64_t masses[kEach];
      uint64_t sum = 0;
      for (int j = 0; j < kEach; ++j) {
        const int digit = kDigits - 1 - (ThreadOf() * kEach + j);
        masses[j] = 0;
#pragma unroll 1  // registers
        for (int c = 0; c < kHistograms; ++c) {
          masses[j] += (uint64_t{memory.high[c][digit]} << 32) + memory.low[c][digit];
        }
        sum += masses[j];
      }
      uint64_t upto = sum;
      for (int offset = 1; offset < kWarpSize; offset *= 2) {
        const uint64_t lower = __shfl_up_sync(kFullMask, upto, offset);
        if (ThreadOf() >= offset) upto += lower;
      }
      uint64_t before = upto - sum;
      if (before < wanted - result.above && upto >= wanted - result.above) {
        int j = 0;
        while (j + 1 < kEach && before + masses[j] < wanted - result.above) before += masses[j++];
        memory.before = before;
        memory.found = kDigits - 1 - (ThreadOf() * kEach + j);
      }
    }
    __syncthreads();
    result.key |= static_cast<unsigned>(memory.found) << shift;
    result.above += memory.before;
  }
  return result;
}

}  // namespace t2r::cuda

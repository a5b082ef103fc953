// A block of 512 threads samples and scores one row of logits.
//
// The row is read from memory once and then from L2: twice for its maximum and log-sum-exp, which
// every row needs; greedy rows need no more. Each threshold (top-k, top-p, the alternatives) takes
// four radix passes over the row, a draw two. Nothing of the row is written: a logit's adjustment
// is found by binary search where a bit map says that it has one. Bytes a greedy row: 4 ·
// vocabulary from memory and as many from L2; operations: about 20 a logit.
#include "engine/ops/cuda/block_select.h"
#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/sampling.h"
#include "engine/ops/cuda/sampling_kernels.h"
#include "engine/sampling/exponential.h"

namespace t2r::cuda {
namespace {

// Larger vocabularies are searched without a bit map.
constexpr int kMaxMapBytes = 64 * 1024;

struct SampleMemory {
  SelectMemory select;
  DeviceRequest request;
  float top_values[kMaxAlternatives];
  int top_tokens[kMaxAlternatives];
  int top_count;
  int not_finite;  // 1: some thread saw one
};

// Unsigned integers in the order of the floats; −0 and 0 are equal, NaN counts as −∞.
__device__ __forceinline__ unsigned OrderedKey(float value) {
  const unsigned bits = __float_as_uint(value == value ? value + 0.0F : -INFINITY);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The upper 64 bits of a product of 128.
__device__ __forceinline__ uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  const uint64_t a_low = a & 0xffffffffU;
  const uint64_t b_low = b & 0xffffffffU;
  const uint64_t middle = (a >> 32) * b_low + (a_low * b_low >> 32);
  const uint64_t other = a_low * (b >> 32) + (middle & 0xffffffffU);
  return (a >> 32) * (b >> 32) + (middle >> 32) + (other >> 32);
}

// The row after its adjustments.
struct AdjustedRow {
  const float* logits;
  const DeviceRequest& request;
  const TokenAdjustment* adjustments;
  const unsigned* map;  // bit i: token i may have an adjustment; null: any may

  __device__ __forceinline__ float operator()(int token) const {
    const float logit = logits[token];
    if (request.adjustments == 0) return logit;
    if (map != nullptr && (map[token / 32] >> (token % 32) & 1U) == 0) return logit;
    int first = 0;
    int last = request.adjustments;
    while (first < last) {
      const int middle = (first + last) / 2;
      if (adjustments[middle].token < token) {
        first = middle + 1;
      } else {
        last = middle;
      }
    }
    if (first == request.adjustments || adjustments[first].token != token) return logit;
    return Adjust(logit, adjustments[first]);
  }

  __device__ __forceinline__ float Adjust(float logit, const TokenAdjustment& adjustment) const {
    logit += adjustment.bias;
    if (adjustment.seen) {
      logit = logit > 0 ? logit / request.repetition_penalty : logit * request.repetition_penalty;
    }
    if (adjustment.generated > 0) {
      logit -= request.frequency_penalty * static_cast<float>(adjustment.generated) +
               request.presence_penalty;
    }
    return logit;
  }
};

// log Σ e^logit of the raw row.
__device__ __forceinline__ double RowLogSumExp(SelectMemory& memory, const float* logits, int size,
                                               float largest) {
  if (fabsf(largest) == INFINITY) return largest;
  const double sum = BlockSum(memory, size, [&](int i) {
    return static_cast<double>(
        ExpNonPositive(logits[i] <= largest ? logits[i] - largest : -INFINITY));
  });
  return static_cast<double>(largest) + log(sum);
}

__device__ __forceinline__ float LogProbability(float logit, double norm) {
  return static_cast<float>(static_cast<double>(logit) - norm);
}

// The `count` largest logits, best first, ties by lower id.
__device__ __forceinline__ void FindTop(SampleMemory& memory, const float* logits, int size,
                                        int count, double norm, DeviceAlternative* out) {
  const auto key = [&](int i) { return OrderedKey(logits[i]); };
  const Threshold edge = BlockThreshold(memory.select, size, static_cast<uint64_t>(count), key,
                                        [](int) { return uint64_t{1}; });
  const auto tie = [&](int i) { return uint64_t{key(i) == edge.key ? 1U : 0U}; };
  BlockMass(memory.select, size, tie);
  const int last_tie = FindInMass(memory.select, size, count - edge.above - 1, tie);
  if (ThreadOf() == 0) memory.top_count = 0;
  __syncthreads();
  for (int i = ThreadOf(); i < size; i += kSelectThreads) {
    const unsigned mine = key(i);
    if (mine > edge.key || (mine == edge.key && i <= last_tie)) {
      const int at = atomicAdd(&memory.top_count, 1);
      memory.top_values[at] = logits[i] == logits[i] ? logits[i] : -INFINITY;
      memory.top_tokens[at] = i;
    }
  }
  __syncthreads();
  if (ThreadOf() < count) {
    const float value = memory.top_values[ThreadOf()];
    const int token = memory.top_tokens[ThreadOf()];
    int rank = 0;
    for (int i = 0; i < count; ++i) {
      const float other = memory.top_values[i];
      if (other > value || (other == value && memory.top_tokens[i] < token)) ++rank;
    }
    out[rank] = {token, LogProbability(value, norm)};
  }
  __syncthreads();
}

// The drawn token; `largest` is finite.
__device__ __forceinline__ int DrawToken(SelectMemory& memory, const AdjustedRow& row, int size,
                                         float largest) {
  const DeviceRequest& request = row.request;
  unsigned lowest = 0;
  if (request.top_k > 0 && request.top_k < size) {
    lowest = BlockThreshold(
                 memory, size, static_cast<uint64_t>(request.top_k),
                 [&](int i) { return OrderedKey(row(i)); }, [](int) { return uint64_t{1}; })
                 .key;
  }
  const auto weight = [&](int i) {
    const float logit = row(i);
    if (!(logit <= largest) || OrderedKey(logit) < lowest) return 0.0F;
    // The largest stays at 0 whatever the temperature: 0 · ∞ must not become NaN.
    const float scaled = logit == largest ? 0.0F : (logit - largest) * request.inverse_temperature;
    return ExpNonPositive(scaled);
  };
  // Weights are at most 1, so their whole mass is at most 2^63.
  int shift = 63;
  while (shift > 0 && (int64_t{1} << (63 - shift)) < size) --shift;
  const float unit = ldexpf(1.0F, shift);
  const auto mass_of = [unit](float value) { return static_cast<uint64_t>(value * unit); };

  Threshold nucleus = {0, 0};
  int last_tie = size;
  if (request.top_p < 1.0F) {
    const auto mass = [&](int i) { return mass_of(weight(i)); };
    const auto key = [&](int i) { return __float_as_uint(weight(i)); };
    const uint64_t total = BlockMass(memory, size, mass);
    const double bound = ceil(static_cast<double>(request.top_p) * static_cast<double>(total));
    uint64_t wanted = bound >= 1 ? static_cast<uint64_t>(bound) : 1;
    if (wanted > total) wanted = total;
    nucleus = BlockThreshold(memory, size, wanted, key, mass);
    const uint64_t each = mass_of(__uint_as_float(nucleus.key));
    const uint64_t ties = (wanted - nucleus.above + each - 1) / each;
    const auto tie = [&](int i) { return uint64_t{key(i) == nucleus.key ? 1U : 0U}; };
    BlockMass(memory, size, tie);
    last_tie = FindInMass(memory, size, ties - 1, tie);
  }
  const float least = request.min_p < 1.0F ? request.min_p : 1.0F;
  const auto kept = [&](int i) -> uint64_t {
    const float value = weight(i);
    const unsigned bits = __float_as_uint(value);
    if (value < least || bits < nucleus.key || (bits == nucleus.key && i > last_tie)) return 0;
    return mass_of(value);
  };
  const uint64_t total = BlockMass(memory, size, kept);
  return FindInMass(memory, size, MultiplyHigh(request.draw << 11, total), kept);
}

__global__ void __launch_bounds__(kSelectThreads, 1)
    SampleKernel(SamplingWork work, int map_words) {
  T2R_DYNAMIC_SHARED(unsigned char, shared);
  auto& memory = *reinterpret_cast<SampleMemory*>(shared);
  auto* const map = reinterpret_cast<unsigned*>(shared + sizeof(SampleMemory));
  // In shared memory, not in registers of every thread.
  if (ThreadOf() == 0) {
    memory.request = work.requests[blockIdx.x];
    memory.not_finite = 0;
  }
  __syncthreads();
  const DeviceRequest& request = memory.request;
  const int size = work.vocabulary;
  const float* const logits = work.logits + request.row * work.stride;
  const AdjustedRow row = {logits, request, work.adjustments + request.first_adjustment,
                           map_words > 0 ? map : nullptr};
  const bool adjusts = request.samples != 0 && request.adjustments > 0;
  if (adjusts && map_words > 0) {
    for (int i = ThreadOf(); i < map_words; i += kSelectThreads) map[i] = 0;
    __syncthreads();
    for (int i = ThreadOf(); i < request.adjustments; i += kSelectThreads) {
      const int token = row.adjustments[i].token;
      if (token >= 0 && token < size) atomicOr(&map[token / 32], 1U << (token % 32));
    }
    __syncthreads();
  }

  bool finite = true;  // what this thread saw
  const Largest raw = BlockLargest(memory.select, size, [&](int i) {
    finite = finite && fabsf(logits[i]) < INFINITY;
    return logits[i];
  });
  if (!finite) memory.not_finite = 1;
  __syncthreads();
  const double norm = RowLogSumExp(memory.select, logits, size, raw.value);
  DeviceResult result = {0, 0.0F, 0.0F, 0, memory.not_finite == 0 ? 1 : 0};
  if (request.target >= 0) result.target_logprob = LogProbability(logits[request.target], norm);
  if (request.top > 0) {
    result.top = request.top < size ? request.top : size;
    FindTop(memory, logits, size, result.top, norm, work.alternatives + request.first_top);
  }
  if (request.samples != 0) {
    const Largest best = adjusts ? BlockLargest(memory.select, size, row) : raw;
    if (request.temperature <= 0.0F || fabsf(best.value) == INFINITY) {
      result.token = best.index < size ? best.index : 0;
    } else {
      result.token = DrawToken(memory.select, row, size, best.value);
    }
    result.logprob = LogProbability(logits[result.token], norm);
  }
  if (ThreadOf() == 0) work.results[blockIdx.x] = result;
}

}  // namespace

void LaunchSampling(const SamplingWork& work, cudaStream_t stream) {
  int map_words = work.adjusts ? (work.vocabulary + 31) / 32 : 0;
  if (map_words * static_cast<int>(sizeof(unsigned)) > kMaxMapBytes) map_words = 0;
  Launch({"sample", dim3(work.count), dim3(kSelectThreads),
          sizeof(SampleMemory) + map_words * sizeof(unsigned), stream},
         SampleKernel, work, map_words);
}

}  // namespace t2r::cuda

#include "engine/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/sampling/exponential.h"

// Compiles a function of plain loops for each of these instruction sets and chooses one where the
// program is loaded. Nothing fuses or reorders operations, so all of them give the same bits. Not
// in the sanitizers' builds, whose run time is not there yet when the choice is made. Highway,
// which other vector code uses, is no part of the GPU benchmark's build, which this file is.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__clang__)
#define T2R_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define T2R_VECTOR_CLONES
#endif

namespace t2r {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool Inside(int32_t token, std::span<const float> logits) {
  return token >= 0 && static_cast<size_t>(token) < logits.size();
}

void Adjust(std::span<float> logits, const SamplingParams& params,
            std::span<const TokenAdjustment> adjustments) {
  for (const TokenAdjustment& adjustment : adjustments) {
    if (!Inside(adjustment.token, logits)) continue;
    float& logit = logits[adjustment.token];
    logit += adjustment.bias;
    if (adjustment.seen) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    if (adjustment.generated > 0) {
      logit -= params.frequency_penalty * static_cast<float>(adjustment.generated) +
               params.presence_penalty;
    }
  }
}

// The largest logit; −∞ when there is none above it. NaN compares false and is passed over.
T2R_VECTOR_CLONES float LargestOf(std::span<const float> logits) {
  std::array<float, 32> lanes;
  lanes.fill(-kInfinity);
  size_t i = 0;
  for (; i + lanes.size() <= logits.size(); i += lanes.size()) {
    for (size_t j = 0; j < lanes.size(); ++j) {
      lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
    }
  }
  for (; i < logits.size(); ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
  return *std::max_element(lanes.begin(), lanes.end());
}

// The k-th largest of the logits, k < logits.size(). NaN counts as −∞.
float KthLargest(std::span<const float> logits, int32_t k) {
  const auto number = [](float logit) { return std::isnan(logit) ? -kInfinity : logit; };
  std::vector<float> top(k);
  std::partial_sort_copy(logits.begin(), logits.end(), top.begin(), top.end(),
                         [&](float a, float b) { return number(a) > number(b); });
  return number(top.back());
}

// Weights are summed in blocks of so many, each in eight lanes, and the blocks in order.
constexpr size_t kBlock = 1024;
constexpr size_t kLanes = 8;

double SumLanes(const std::array<double, kLanes>& lanes) {
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

T2R_VECTOR_CLONES double BlockSum(const float* weights, size_t n) {
  std::array<double, kLanes> lanes = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += weights[i + j];
  }
  for (; i < n; ++i) lanes[0] += weights[i];
  return SumLanes(lanes);
}

// e^((logit − largest) · inverse), and 0 for logits below `lowest` and NaN. Returns the sum of n ≤
// kBlock of them. weights may be the logits.
T2R_VECTOR_CLONES double BlockWeights(const float* logits, size_t n, float largest, float inverse,
                                      float lowest, float* weights) {
  for (size_t i = 0; i < n; ++i) {
    const float logit = logits[i];
    // The largest stays at 0 whatever the temperature: 0 · ∞ must not become NaN.
    const float scaled = logit == largest ? 0.0F : (logit - largest) * inverse;
    const float weight = ExpNonPositive(scaled);
    weights[i] = logit >= lowest ? weight : 0.0F;
  }
  return BlockSum(weights, n);
}

// The weights of a row and what their blocks sum up to.
class Weights {
 public:
  // Fills `weights`, as many as there are logits and maybe the same, as BlockWeights.
  Weights(std::span<const float> logits, float largest, float inverse, float lowest,
          std::span<float> weights)
      : weights_(weights) {
    for (size_t i = 0; i < logits.size(); i += kBlock) {
      const size_t n = std::min(kBlock, logits.size() - i);
      Add(BlockWeights(logits.data() + i, n, largest, inverse, lowest, weights.data() + i));
    }
  }

  std::span<float> values() { return weights_; }
  double sum() const { return sum_; }
  // After values() have changed.
  void SumAgain() {
    blocks_.clear();
    sum_ = 0;
    for (size_t i = 0; i < weights_.size(); i += kBlock) {
      Add(BlockSum(weights_.data() + i, std::min(kBlock, weights_.size() - i)));
    }
  }
  // The first weight at which the running sum passes uniform · sum(), which lies in [0, sum()); the
  // last one that is not 0 where rounding keeps it from doing so.
  int32_t At(double uniform) const {
    const double target = uniform * sum_;
    double before = 0;
    size_t block = 0;
    while (block + 1 < blocks_.size() && before + blocks_[block] <= target)
      before += blocks_[block++];
    const size_t end = std::min(weights_.size(), (block + 1) * kBlock);
    size_t last = weights_.size();
    for (size_t i = block * kBlock; i < end; ++i) {
      if (weights_[i] == 0.0F) continue;
      last = i;
      before += weights_[i];
      if (before > target) break;
    }
    // Zeros at the end of the row: what is chosen stands before them.
    if (last == weights_.size()) {
      last = block * kBlock;
      while (last > 0 && weights_[last] == 0.0F) --last;
    }
    return static_cast<int32_t>(last);
  }

 private:
  void Add(double block) {
    blocks_.push_back(block);
    sum_ += block;
  }

  std::span<float> weights_;
  std::vector<double> blocks_;
  double sum_ = 0;
};

// Zeroes every weight outside the nucleus. Weights lie in [0, 1], so their bit patterns order as
// they do: masses are gathered in buckets of 1/16 octave, and only the bucket in which the mass
// reaches p is sorted.
void KeepNucleus(std::span<float> weights, float top_p) {
  constexpr int kShift = 19;
  constexpr uint32_t kBuckets = (std::bit_cast<uint32_t>(1.0F) >> kShift) + 1;
  const auto bucket_of = [](float weight) {
    return std::min(std::bit_cast<uint32_t>(weight) >> kShift, kBuckets - 1);
  };
  std::vector<double> masses(kBuckets, 0.0);
  for (const float weight : weights) masses[bucket_of(weight)] += weight;
  double total = 0;
  for (const double mass : masses) total += mass;
  const double wanted = static_cast<double>(top_p) * total;
  double mass = 0;
  uint32_t bucket = kBuckets - 1;
  while (bucket > 0 && mass + masses[bucket] < wanted) mass += masses[bucket--];

  std::vector<int32_t> edge;
  for (size_t i = 0; i < weights.size(); ++i) {
    const uint32_t mine = bucket_of(weights[i]);
    if (mine == bucket) edge.push_back(static_cast<int32_t>(i));
    if (mine < bucket) weights[i] = 0.0F;
  }
  std::sort(edge.begin(), edge.end(), [weights](int32_t a, int32_t b) {
    return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
  });
  bool any = mass > 0;
  for (const int32_t token : edge) {
    if (any && mass >= wanted) {
      weights[token] = 0.0F;
    } else {
      mass += weights[token];
      any = true;
    }
  }
}

// largest: LargestOf(logits).
int32_t GreedyToken(std::span<const float> logits, float largest) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == largest) return static_cast<int32_t>(i);
  }
  return 0;
}

bool CutsTopK(const SamplingParams& params, std::span<const float> logits) {
  return params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size();
}

struct Drawn {
  int32_t token = 0;
  double sum = 0;  // of the weights before top-p and min-p
};

// A draw at a temperature above 0. largest: LargestOf(logits), finite. weights: as many, for its
// own use; they may be the logits.
Drawn Draw(std::span<const float> logits, float largest, const SamplingParams& params,
           uint64_t position, std::span<float> scratch) {
  const float lowest = CutsTopK(params, logits) ? KthLargest(logits, params.top_k) : -kInfinity;
  Weights weights(logits, largest, 1.0F / params.temperature, lowest, scratch);
  Drawn drawn{.sum = weights.sum()};
  if (params.top_p < 1.0F) KeepNucleus(weights.values(), params.top_p);
  if (params.min_p > 0.0F) {
    const float threshold = std::min(params.min_p, 1.0F);
    for (float& weight : weights.values()) weight = weight >= threshold ? weight : 0.0F;
  }
  if (params.top_p < 1.0F || params.min_p > 0.0F) weights.SumAgain();
  drawn.token = weights.At(CounterUniform(params.seed, params.sequence, position));
  return drawn;
}

// largest: LargestOf(logits).
double LogSumExp(std::span<const float> logits, float largest) {
  if (std::isinf(largest)) return largest;
  std::array<float, kBlock> weights;
  double sum = 0;
  for (size_t i = 0; i < logits.size(); i += kBlock) {
    sum += BlockWeights(logits.data() + i, std::min(kBlock, logits.size() - i), largest, 1.0F,
                        -kInfinity, weights.data());
  }
  return static_cast<double>(largest) + std::log(sum);
}

// norm: LogSumExp(logits).
float LogProbability(std::span<const float> logits, int32_t token, double norm) {
  if (!Inside(token, logits)) return -kInfinity;
  return static_cast<float>(static_cast<double>(logits[token]) - norm);
}

// norm: LogSumExp(logits).
std::vector<std::pair<int32_t, float>> Top(std::span<const float> logits, int n, double norm) {
  const auto count = std::min(static_cast<size_t>(std::max(n, 0)), logits.size());
  std::vector<std::pair<int32_t, float>> top;
  top.reserve(count + 1);
  const auto better = [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  };
  // A heap whose front is the worst of the best so far.
  for (size_t i = 0; i < logits.size() && count > 0; ++i) {
    const float logit = std::isnan(logits[i]) ? -kInfinity : logits[i];
    const std::pair<int32_t, float> mine(static_cast<int32_t>(i), logit);
    if (top.size() == count && !better(mine, top.front())) continue;
    if (top.size() == count) {
      std::pop_heap(top.begin(), top.end(), better);
      top.pop_back();
    }
    top.push_back(mine);
    std::push_heap(top.begin(), top.end(), better);
  }
  std::sort(top.begin(), top.end(), better);
  for (auto& [token, value] : top) {
    value = static_cast<float>(static_cast<double>(value) - norm);
  }
  return top;
}

}  // namespace

T2R_VECTOR_CLONES bool AllFinite(std::span<const float> values) {
  // An exponent of all ones is an infinity or a NaN. Without a branch the loop is vectorised.
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t any = 0;
  for (const float value : values) {
    any |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & kExponent) == kExponent);
  }
  return any == 0;
}

int32_t GreedyToken(std::span<const float> logits) {
  return GreedyToken(logits, LargestOf(logits));
}

int32_t SampleToken(std::span<float> logits, const SamplingParams& params,
                    std::span<const TokenAdjustment> adjustments, uint64_t position) {
  Adjust(logits, params, adjustments);
  if (params.temperature <= 0.0F) return GreedyToken(logits);
  const float largest = LargestOf(logits);
  if (std::isinf(largest)) return GreedyToken(logits);
  return Draw(logits, largest, params, position, logits).token;
}

double LogSumExp(std::span<const float> logits) { return LogSumExp(logits, LargestOf(logits)); }

float LogProbability(std::span<const float> logits, int32_t token) {
  return LogProbability(logits, token, LogSumExp(logits));
}

std::vector<std::pair<int32_t, float>> TopLogProbabilities(std::span<const float> logits, int n) {
  return Top(logits, n, LogSumExp(logits));
}

SampleResult SampleRow(std::span<const float> logits, const SampleRequest& request) {
  SampleResult result;
  result.finite = AllFinite(logits);
  if (!result.finite) return result;
  const float largest = LargestOf(logits);
  double norm = 0;
  bool normed = false;
  if (request.sampling != nullptr) {
    const SamplingParams& params = *request.sampling;
    if (request.adjustments.empty() && params.temperature <= 0.0F) {
      result.token = GreedyToken(logits, largest);
    } else {
      // The raw logits are still needed.
      thread_local std::vector<float> scratch;
      scratch.resize(logits.size());
      if (request.adjustments.empty()) {
        const Drawn drawn = Draw(logits, largest, params, request.position, scratch);
        result.token = drawn.token;
        // At temperature 1 the weights are those that the norm sums up.
        normed = params.temperature == 1.0F && !CutsTopK(params, logits);
        norm = largest + std::log(drawn.sum);
      } else {
        std::copy(logits.begin(), logits.end(), scratch.begin());
        result.token = SampleToken(scratch, params, request.adjustments, request.position);
      }
    }
  }
  if (!normed) norm = LogSumExp(logits, largest);
  if (request.target >= 0) {
    result.target_logprob = LogProbability(logits, request.target, norm);
  }
  if (request.top > 0) result.top = Top(logits, request.top, norm);
  if (request.sampling != nullptr) result.logprob = LogProbability(logits, result.token, norm);
  return result;
}

}  // namespace t2r

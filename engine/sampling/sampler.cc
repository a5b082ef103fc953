#include "engine/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "engine/sampling/exponential.h"

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
float LargestOf(std::span<const float> logits) {
  std::array<float, 16> lanes;
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

// The k-th largest of the logits, k < logits.size().
float KthLargest(std::span<const float> logits, int32_t k) {
  std::vector<float> top(k);
  std::partial_sort_copy(logits.begin(), logits.end(), top.begin(), top.end(),
                         std::greater<float>());
  return top.back();
}

double SumOf(std::span<const float> weights) {
  std::array<double, 8> lanes = {};
  size_t i = 0;
  for (; i + lanes.size() <= weights.size(); i += lanes.size()) {
    for (size_t j = 0; j < lanes.size(); ++j) lanes[j] += weights[i + j];
  }
  for (; i < weights.size(); ++i) lanes[0] += weights[i];
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

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

bool AllFinite(std::span<const float> values) {
  // An exponent of all ones is an infinity or a NaN. Without a branch the loop is vectorised.
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t any = 0;
  for (const float value : values) {
    any |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & kExponent) == kExponent);
  }
  return any == 0;
}

int32_t GreedyToken(std::span<const float> logits) {
  const float largest = LargestOf(logits);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == largest) return static_cast<int32_t>(i);
  }
  return 0;
}

int32_t SampleToken(std::span<float> logits, const SamplingParams& params,
                    std::span<const TokenAdjustment> adjustments, uint64_t position) {
  Adjust(logits, params, adjustments);
  if (params.temperature <= 0.0F) return GreedyToken(logits);
  const float largest = LargestOf(logits);
  if (std::isinf(largest)) return GreedyToken(logits);
  for (float& logit : logits) logit = logit <= largest ? logit : -kInfinity;  // NaN

  float lowest = -kInfinity;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()) {
    lowest = KthLargest(logits, params.top_k);
  }
  const float inverse = 1.0F / params.temperature;
  for (float& logit : logits) {
    // The largest stays at 0 whatever the temperature: 0 · ∞ must not become NaN.
    const float scaled = logit == largest ? 0.0F : (logit - largest) * inverse;
    const float weight = ExpNonPositive(scaled);
    logit = logit >= lowest ? weight : 0.0F;
  }
  if (params.top_p < 1.0F) KeepNucleus(logits, params.top_p);
  if (params.min_p > 0.0F) {
    const float threshold = std::min(params.min_p, 1.0F);
    for (float& weight : logits) weight = weight >= threshold ? weight : 0.0F;
  }
  const double target = CounterUniform(params.seed, params.sequence, position) * SumOf(logits);
  double sum = 0;
  int32_t last = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == 0.0F) continue;
    last = static_cast<int32_t>(i);
    sum += logits[i];
    if (sum > target) break;
  }
  return last;
}

double LogSumExp(std::span<const float> logits) {
  const float largest = LargestOf(logits);
  if (std::isinf(largest)) return largest;
  std::array<double, 8> lanes = {};
  const auto weight = [largest](float logit) {
    return ExpNonPositive(logit <= largest ? logit - largest : -kInfinity);
  };
  size_t i = 0;
  for (; i + lanes.size() <= logits.size(); i += lanes.size()) {
    for (size_t j = 0; j < lanes.size(); ++j) lanes[j] += weight(logits[i + j]);
  }
  for (; i < logits.size(); ++i) lanes[0] += weight(logits[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return static_cast<double>(largest) + std::log(sum);
}

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
  const double norm = LogSumExp(logits);
  if (request.target >= 0) {
    result.target_logprob = LogProbability(logits, request.target, norm);
  }
  if (request.top > 0) result.top = Top(logits, request.top, norm);
  if (request.sampling == nullptr) return result;
  if (request.adjustments.empty() && request.sampling->temperature <= 0.0F) {
    result.token = GreedyToken(logits);
  } else {
    // SampleToken overwrites its logits; the raw ones are still needed.
    thread_local std::vector<float> scratch;
    scratch.assign(logits.begin(), logits.end());
    result.token = SampleToken(scratch, *request.sampling, request.adjustments, request.position);
  }
  result.logprob = LogProbability(logits, result.token, norm);
  return result;
}

}  // namespace t2r

#include "engine/ops/cuda/sampling.h"

#include <cassert>
#include <cstring>
#include <limits>
#include <string>

#include "engine/ops/cuda/sampling_kernels.h"
#include "engine/sampling/sampler.h"

namespace t2r::cuda {
namespace {

static_assert(sizeof(DeviceRequest) % alignof(TokenAdjustment) == 0);
static_assert(sizeof(DeviceResult) % alignof(DeviceAlternative) == 0);

// A target outside the vocabulary. The kernel leaves its result alone, as without a target.
constexpr int32_t kOutside = -2;

DeviceRequest Describe(const SampleRequest& request, int64_t vocabulary) {
  DeviceRequest described = {};
  described.row = request.row;
  described.target = request.target < vocabulary ? request.target : kOutside;
  described.top = request.top;
  if (request.sampling == nullptr) return described;
  const SamplingParams& sampling = *request.sampling;
  described.samples = 1;
  described.draw = CounterBits(sampling.seed, sampling.sequence, request.position);
  described.adjustments = static_cast<int32_t>(request.adjustments.size());
  described.temperature = sampling.temperature;
  described.inverse_temperature = 1.0F / sampling.temperature;
  described.top_k = sampling.top_k;
  described.top_p = sampling.top_p;
  described.min_p = sampling.min_p;
  described.repetition_penalty = sampling.repetition_penalty;
  described.frequency_penalty = sampling.frequency_penalty;
  described.presence_penalty = sampling.presence_penalty;
  return described;
}

}  // namespace

Sampler::Sampler(cudaStream_t stream) : stream_(stream) {
  Check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
}

Sampler::~Sampler() { static_cast<void>(cudaEventDestroy(done_)); }

void Sampler::Grow(size_t upload_bytes, size_t result_bytes) {
  if (upload_bytes > upload_.bytes()) {
    upload_ = DeviceArray<std::byte>(upload_bytes);
    host_upload_ = PinnedArray<std::byte>(upload_bytes);
  }
  if (result_bytes > results_.bytes()) {
    results_ = DeviceArray<std::byte>(result_bytes);
    host_results_ = PinnedArray<std::byte>(result_bytes);
  }
}

void Sampler::Reserve(const SamplerLimits& limits) {
  Grow(limits.requests * sizeof(DeviceRequest) + limits.adjustments * sizeof(TokenAdjustment),
       limits.requests * (sizeof(DeviceResult) + kMaxAlternatives * sizeof(DeviceAlternative)));
}

void Sampler::Sample(Tensor logits, std::span<const SampleRequest> requests) {
  requests_ = requests.size();
  if (requests.empty()) return;
  size_t adjustments = 0;
  size_t alternatives = 0;
  for (const SampleRequest& request : requests) {
    assert(request.row >= 0 && request.row < logits.rows);
    if (request.top > kMaxAlternatives) {
      throw DeviceError(DeviceErrorKind::kInvalidArgument,
                        "top = " + std::to_string(request.top) +
                            " alternatives: the CUDA backend reports " +
                            std::to_string(kMaxAlternatives) + " at most; ask for fewer");
    }
    if (request.sampling != nullptr) adjustments += request.adjustments.size();
    alternatives += request.top;
  }
  const size_t request_bytes = requests.size() * sizeof(DeviceRequest);
  const size_t upload_bytes = request_bytes + adjustments * sizeof(TokenAdjustment);
  const size_t result_bytes =
      requests.size() * sizeof(DeviceResult) + alternatives * sizeof(DeviceAlternative);
  Grow(upload_bytes, result_bytes);

  size_t first_adjustment = 0;
  size_t first_top = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    DeviceRequest described = Describe(requests[i], logits.cols);
    described.first_top = static_cast<int32_t>(first_top);
    described.first_adjustment = static_cast<int32_t>(first_adjustment);
    std::memcpy(host_upload_.data() + i * sizeof(described), &described, sizeof(described));
    if (described.adjustments > 0) {
      std::memcpy(host_upload_.data() + request_bytes + first_adjustment * sizeof(TokenAdjustment),
                  requests[i].adjustments.data(), requests[i].adjustments.size_bytes());
    }
    first_adjustment += described.adjustments;
    first_top += described.top;
  }
  Check(cudaMemcpyAsync(upload_.data(), host_upload_.data(), upload_bytes, cudaMemcpyHostToDevice,
                        stream_),
        "cudaMemcpyAsync");
  SamplingWork work = {};
  work.logits = logits.f32();
  work.stride = logits.stride;
  work.vocabulary = static_cast<int>(logits.cols);
  work.requests = reinterpret_cast<const DeviceRequest*>(upload_.data());
  work.count = static_cast<int>(requests.size());
  work.adjustments = reinterpret_cast<const TokenAdjustment*>(upload_.data() + request_bytes);
  work.results = reinterpret_cast<DeviceResult*>(results_.data());
  work.alternatives = reinterpret_cast<DeviceAlternative*>(results_.data() +
                                                           requests.size() * sizeof(DeviceResult));
  work.adjusts = adjustments > 0;
  LaunchSampling(work, stream_);
  Check(cudaMemcpyAsync(host_results_.data(), results_.data(), result_bytes, cudaMemcpyDeviceToHost,
                        stream_),
        "cudaMemcpyAsync");
  Check(cudaEventRecord(done_, stream_), "cudaEventRecord");
}

void Sampler::Fetch(std::span<SampleResult> results) {
  assert(results.size() == requests_);
  if (requests_ == 0) return;
  Check(cudaEventSynchronize(done_), "cudaEventSynchronize");
  // Alternatives lie in the order of the requests, as many for each as it asked for.
  const auto* found = reinterpret_cast<const DeviceResult*>(host_results_.data());
  const auto* described = reinterpret_cast<const DeviceRequest*>(host_upload_.data());
  const auto* alternatives = reinterpret_cast<const DeviceAlternative*>(
      host_results_.data() + requests_ * sizeof(DeviceResult));
  for (size_t i = 0; i < requests_; ++i) {
    results[i].finite = found[i].finite != 0;
    if (!results[i].finite) {
      results[i] = SampleResult();
      results[i].finite = false;
      continue;
    }
    results[i].token = found[i].token;
    results[i].logprob = found[i].logprob;
    results[i].target_logprob = described[i].target == kOutside
                                    ? -std::numeric_limits<float>::infinity()
                                    : found[i].target_logprob;
    results[i].top.clear();
    for (int32_t j = 0; j < found[i].top; ++j) {
      const DeviceAlternative& alternative = alternatives[described[i].first_top + j];
      results[i].top.emplace_back(alternative.token, alternative.logprob);
    }
  }
}

}  // namespace t2r::cuda

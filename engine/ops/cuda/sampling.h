// Sampling for a whole batch on the device (engine/sampling/sample.h and sampler.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/ops/cuda/device_memory.h"
#include "engine/ops/tensor.h"
#include "engine/sampling/sample.h"

namespace t2r::cuda {

// Most alternatives a request may ask for; more throws DeviceError.
inline constexpr int kMaxTop = 64;

// What one sampler's steps may come to need.
struct SamplerLimits {
  int64_t requests = 0;     // of one call
  int64_t adjustments = 0;  // of one call, all requests together
  int64_t vocabulary = 0;   // columns of the logits
};

// Samples in two calls, so that the device works while the host goes on. Requests go up in one copy
// and results come down in one. Owns pinned host memory and device memory for its limits; allocates
// only in the constructor and in Reserve. One thread at a time; must not outlive `stream`.
class Sampler {
 public:
  explicit Sampler(cudaStream_t stream) : stream_(stream) {}

  // Makes room for calls within the limits. Throws DeviceError.
  void Reserve(const SamplerLimits& limits);
  // Launches the work on the stream; logits float32 stay as they are. Grows what is too small.
  void Sample(Tensor logits, std::span<const SampleRequest> requests);
  // Waits for the last Sample. Throws DeviceError.
  void Fetch(std::span<SampleResult> results);

 private:
  cudaStream_t stream_;
  SamplerLimits limits_;
  PinnedArray<std::byte> host_upload_;
  PinnedArray<std::byte> host_results_;
  DeviceArray<std::byte> device_upload_;
  DeviceArray<std::byte> device_results_;
  DeviceArray<float> weights_;  // [requests, vocabulary]: what sampling makes of the logits
};

}  // namespace t2r::cuda

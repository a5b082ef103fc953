// Sampling for a whole batch on the device (engine/sampling/sample.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/ops/cuda/device_memory.h"
#include "engine/ops/tensor.h"
#include "engine/sampling/sample.h"

namespace t2r::cuda {

// What one sampler's calls may come to need.
struct SamplerLimits {
  int64_t requests = 0;     // of one call
  int64_t adjustments = 0;  // of one call, all requests together
};

// Samples in two calls, so that the device works while the host goes on: requests go up in one
// copy, results come down in one. Allocates in Reserve, and where a call is
// larger than any before. For one thread at a time; `stream` must outlive it.
//
// The rules are those of engine/sampling/sampler.h, and so are the bits of every weight. Masses are
// exact sums of weights rounded down to multiples of 2^-n, n = 63 − ⌈log2 vocabulary⌉, where the
// host's are float64 sums: a token differs from the host's only where the draw, or top-p's bound,
// lies within about vocabulary · 2^-n of the border between two tokens, relative to the largest
// weight (2e-9 for a vocabulary of 131,072).
class Sampler {
 public:
  explicit Sampler(cudaStream_t stream);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // Makes room for calls within the limits. Throws DeviceError.
  void Reserve(const SamplerLimits& limits);
  // Launches the work on the stream. logits [rows, vocabulary], float32, stay as they are. Fetch
  // comes before the next Sample. Throws DeviceError.
  void Sample(Tensor logits, std::span<const SampleRequest> requests);
  // Waits for the last Sample; results[i] belongs to its requests[i]. Throws DeviceError.
  void Fetch(std::span<SampleResult> results);

 private:
  void Grow(size_t upload_bytes, size_t result_bytes);

  cudaStream_t stream_;
  cudaEvent_t done_ = nullptr;
  PinnedArray<std::byte> host_upload_;
  PinnedArray<std::byte> host_results_;
  DeviceArray<std::byte> upload_;
  DeviceArray<std::byte> results_;
  size_t requests_ = 0;  // of the last Sample
};

}  // namespace t2r::cuda

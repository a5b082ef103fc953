// The kernel behind Sampler and what it reads and writes.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "engine/sampling/sample.h"

namespace t2r::cuda {

// A SampleRequest in device memory.
struct DeviceRequest {
  uint64_t draw;  // CounterBits of the token
  int32_t row;
  int32_t target;  // below 0: none
  int32_t top;     // alternatives wanted, and where they go
  int32_t first_top;
  int32_t adjustments;  // how many, and the first of them
  int32_t first_adjustment;
  int32_t samples;  // 0: no token is wanted
  int32_t top_k;
  float temperature;
  float inverse_temperature;
  float top_p;
  float min_p;
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
  int32_t padding;  // initialised: the whole struct is copied
};

struct DeviceResult {
  int32_t token;
  float logprob;
  float target_logprob;
  int32_t top;     // alternatives found: the wanted ones, or the whole vocabulary
  int32_t finite;  // 0: a logit of the row is NaN or infinite
};

struct DeviceAlternative {
  int32_t token;
  float logprob;
};

struct SamplingWork {
  const float* logits;  // [rows, vocabulary]
  int64_t stride;
  int vocabulary;
  const DeviceRequest* requests;
  int count;
  const TokenAdjustment* adjustments;
  DeviceResult* results;            // [count]
  DeviceAlternative* alternatives;  // of all requests
  bool adjusts;                     // whether any request has adjustments
};

void LaunchSampling(const SamplingWork& work, cudaStream_t stream);

}  // namespace t2r::cuda

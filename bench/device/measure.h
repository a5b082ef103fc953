// Speeds of a device and of models on it.
#pragma once

#include <cstdint>

#include "bench/device/device_model.h"

namespace t2r::bench {

// Best of several runs, all on the backend's own stream.
struct DevicePeaks {
  double copy_bytes_per_s = 0;    // device to device, bytes read and bytes written
  double matrix_flops_per_s = 0;  // bfloat16 product, float32 accumulation
  double launch_s = 0;            // one kernel that does next to nothing, within a recorded step
};
// elements: of the copied buffer, in float32, and of the square matrices together; large on a card.
DevicePeaks MeasurePeaks(cuda::CudaBackend& backend, int64_t elements);

struct Timing {
  double seconds = 0;  // of one step, the mean
  int steps = 0;
};

// Decodes one token a step with each of `sessions` sessions, all said to be at `position`, for
// about `budget_s` seconds. The states and pages hold whatever they hold: the time does not depend
// on values.
Timing TimeDecode(ModelExecutor& executor, int sessions, int64_t position, double budget_s);

// Prompts of `tokens` tokens, one after another, in chunks of `chunk`; seconds a prompt.
Timing TimePrefill(ModelExecutor& executor, int64_t tokens, int64_t chunk, double budget_s);

// Σ over operations of max(bytes / copy bandwidth, FLOPs / matrix rate), seconds.
double DecodeFloor(const ModelConfig& config, const DevicePeaks& peaks, int sessions,
                   int64_t position);
// The step's bytes over the copy bandwidth, seconds.
double BytesOnly(const ModelConfig& config, const DevicePeaks& peaks, int sessions,
                 int64_t position);
// FLOPs of `tokens` tokens from position 0, the head counted once.
double PrefillFlops(const ModelConfig& config, int64_t tokens);

}  // namespace t2r::bench

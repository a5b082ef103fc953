// The CPU backend: device memory is host memory, activations are float32.
#pragma once

#include <memory>

#include "engine/ops/backend.h"

namespace t2r {

// threads: computing threads, the calling one included; 0 = one a core. Throws DeviceError when
// `threads` is negative or above 1024, or a thread cannot start.
std::unique_ptr<Backend> MakeCpuBackend(int threads);

}  // namespace t2r

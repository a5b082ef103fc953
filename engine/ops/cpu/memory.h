// Host memory for device buffers and packed weights.
#pragma once

#include <cstddef>

#include "engine/ops/backend.h"

namespace t2r {

// Zeroed memory straight from the system, page aligned; large requests are aligned to and advised
// for huge pages, which streaming over weights and states needs to reach the memory's speed. Pages
// are only taken when touched. Throws DeviceError naming the size when the system refuses.
Buffer AllocateHost(size_t bytes);

// The machine's memory: all of it, and what could be had without swapping. Zeros where the system
// does not tell.
MemoryInfo HostMemory();

}  // namespace t2r

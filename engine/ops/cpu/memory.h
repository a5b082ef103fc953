// Host memory for device buffers and packed weights.
#pragma once

#include <cstddef>

#include "engine/ops/backend.h"

namespace t2r {

// Zeroed memory straight from the system, page aligned; large requests are aligned to and advised
// for huge pages, which streaming over weights and states needs to reach the memory's speed. Pages
// are only taken when touched. Throws DeviceError naming the size when the system refuses.
Buffer AllocateHost(size_t bytes);

// The same for a matrix's weights: what is smaller than a few huge pages shares a region of them
// with other weights, which goes back to the system with the last of them. A layer's matrix alone
// would lie in small pages, and reading it means waiting for their addresses. Any thread.
Buffer AllocateWeights(size_t bytes);

}  // namespace t2r

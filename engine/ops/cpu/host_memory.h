// How much of the machine's memory this process may have.
#pragma once

#include <string>

#include "engine/ops/backend.h"

namespace t2r {

// The machine's memory, all of it and what could be had without swapping; less where a control
// group (v1 or v2) of this process or one above it has a limit. Pages of files that nobody used
// lately count as free. Zeros where the system does not tell. root: what /proc and /sys are under.
MemoryInfo HostMemory(const std::string& root = "");

}  // namespace t2r

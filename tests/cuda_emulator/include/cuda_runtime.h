// Stands in for CUDA's header of this name where kernels are compiled as plain C++: the part of the
// runtime that engine/ops/cuda uses, on fibers. See docs/cuda.md.
#pragma once

#include "tests/cuda_emulator/device_functions.h"
#include "tests/cuda_emulator/host_api.h"
#include "tests/cuda_emulator/vector_types.h"

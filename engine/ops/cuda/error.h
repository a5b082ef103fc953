// From CUDA's error codes to DeviceError.
#pragma once

#include <cuda_runtime.h>

namespace t2r::cuda {

// Returns at success. Otherwise throws DeviceError with `call` (a function, or the kernel that was
// launched), CUDA's name and text for the error, and what to do about it.
void Check(cudaError_t error, const char* call);

}  // namespace t2r::cuda

// What the program and the CUDA module, a shared library loaded at run time, know of each other.
#pragma once

#include <memory>
#include <string>

#include "engine/ops/backend.h"

namespace t2r {

// Returns the digest of the headers that say what crosses the border, which CMake gives both sides
// as T2R_CUDA_INTERFACE (interface.cmake). A module with another one than the program's is refused.
inline constexpr char kCudaInterfaceSymbol[] = "t2r_cuda_interface";
inline constexpr char kCudaModuleMakeSymbol[] = "t2r_make_cuda_backend";
using CudaInterface = const char*();
// Returns a backend that the caller owns. Throws DeviceError.
using CudaModuleMake = Backend*(bool batch_invariant);

// Loads the module, once a process (it is never unloaded), and makes its backend. The module is the
// file that the environment variable T2R_CUDA_MODULE names, else libt2r_cuda.so beside the program,
// else as the system's loader finds it. Throws DeviceError that says what is missing.
std::unique_ptr<Backend> MakeCudaBackend(const BackendOptions& options);

}  // namespace t2r

#include "engine/ops/cuda/device_memory.h"

#include <string>

#include "engine/ops/tensor.h"

namespace t2r::cuda {

void* AllocateDevice(size_t bytes) {
  void* data = nullptr;
  const std::string call = "cudaMalloc of " + std::to_string(bytes) + " bytes";
  Check(cudaMalloc(&data, bytes), call.c_str());
  return data;
}

void* AllocatePinned(size_t bytes) {
  void* data = nullptr;
  const std::string call = "cudaMallocHost of " + std::to_string(bytes) + " bytes";
  Check(cudaMallocHost(&data, bytes), call.c_str());
  return data;
}

// What a lost device answers here changes nothing: later calls tell of it.
void FreeDevice(void* data) noexcept { static_cast<void>(cudaFree(data)); }
void FreePinned(void* data) noexcept { static_cast<void>(cudaFreeHost(data)); }

}  // namespace t2r::cuda

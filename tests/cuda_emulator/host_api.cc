// Devices, memory and copies of the emulated runtime.
#include "tests/cuda_emulator/host_api.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "tests/cuda_emulator/runtime.h"

using emulator::Runtime;

namespace {

// Every call begins by taking the lock and looking for an earlier failure.
#define T2R_EMULATOR_ENTER(runtime)          \
  Runtime& runtime = Runtime::Get();         \
  const std::lock_guard lock(runtime.mutex); \
  if (runtime.sticky != cudaSuccess) return runtime.sticky

constexpr std::align_val_t kAlignment{256};

cudaError_t Allocate(void** data, size_t bytes, std::map<void*, size_t>* blocks) {
  *data = nullptr;
  void* memory = ::operator new(bytes, kAlignment, std::nothrow);
  if (memory == nullptr) return cudaErrorMemoryAllocation;
  std::memset(memory, 0xff, bytes);  // NaN: who reads before writing shows
  (*blocks)[memory] = bytes;
  *data = memory;
  return cudaSuccess;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorECCUncorrectable:
      return "cudaErrorECCUncorrectable";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  thread_local std::string text;
  text = cudaGetErrorName(error);
  if (error == cudaErrorLaunchFailure) text += ": " + runtime.report;
  return text.c_str();
}

cudaError_t cudaGetLastError() {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  return runtime.sticky;
}

cudaError_t cudaGetDeviceCount(int* count) {
  T2R_EMULATOR_ENTER(runtime);
  *count = runtime.devices;
  return runtime.devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device) {
  T2R_EMULATOR_ENTER(runtime);
  return device >= 0 && device < runtime.devices ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  T2R_EMULATOR_ENTER(runtime);
  if (device < 0 || device >= runtime.devices) return cudaErrorInvalidValue;
  *properties = {};
  std::strcpy(properties->name, "emulated");
  const char* architecture = std::getenv("T2R_EMULATOR_SM");
  const int sm = architecture != nullptr ? std::atoi(architecture) : 89;
  properties->major = sm / 10;
  properties->minor = sm % 10;
  properties->multiProcessorCount = 4;
  properties->totalGlobalMem = runtime.memory;
  properties->sharedMemPerBlockOptin = 163 * 1024;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  T2R_EMULATOR_ENTER(runtime);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value > 163 * 1024) {
    return cudaErrorInvalidValue;
  }
  runtime.shared_limits[function] = value;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  T2R_EMULATOR_ENTER(runtime);
  attributes->binaryVersion = 80;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  T2R_EMULATOR_ENTER(runtime);
  *data = nullptr;
  ++runtime.counts.mallocs;
  if (runtime.Capturing()) return cudaErrorStreamCaptureUnsupported;
  if (runtime.Fails("malloc")) return cudaErrorMemoryAllocation;
  if (bytes == 0) return cudaSuccess;
  if (bytes > runtime.memory - runtime.allocated) return cudaErrorMemoryAllocation;
  const cudaError_t error = Allocate(data, bytes, &runtime.device_blocks);
  if (error == cudaSuccess) runtime.allocated += bytes;
  return error;
}

// Freeing works after a failure too, as what it frees is the host's.
cudaError_t cudaFree(void* data) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  if (data == nullptr) return runtime.sticky;
  runtime.FlushAll();
  const auto block = runtime.device_blocks.find(data);
  if (block == runtime.device_blocks.end()) return cudaErrorInvalidValue;
  runtime.allocated -= block->second;
  runtime.device_blocks.erase(block);
  ::operator delete(data, kAlignment);
  return runtime.sticky;
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  T2R_EMULATOR_ENTER(runtime);
  return Allocate(data, bytes, &runtime.pinned_blocks);
}

cudaError_t cudaFreeHost(void* data) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  if (data == nullptr) return runtime.sticky;
  runtime.FlushAll();
  if (runtime.pinned_blocks.erase(data) == 0) return cudaErrorInvalidValue;
  ::operator delete(data, kAlignment);
  return runtime.sticky;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  T2R_EMULATOR_ENTER(runtime);
  *free = runtime.memory - runtime.allocated;
  *total = runtime.memory;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  T2R_EMULATOR_ENTER(runtime);
  const auto pinned = [&](const void* address) {
    auto after = runtime.pinned_blocks.upper_bound(const_cast<void*>(address));
    if (after == runtime.pinned_blocks.begin()) return false;
    --after;
    return static_cast<const char*>(address) < static_cast<char*>(after->first) + after->second;
  };
  if (stream != nullptr && stream->capture == nullptr) {
    // Pageable memory: read before the call returns, or written before it does.
    if (kind == cudaMemcpyHostToDevice && !pinned(from)) {
      const auto* bytes_from = static_cast<const char*>(from);
      return runtime.Add(stream, [to, copy = std::vector<char>(bytes_from, bytes_from + bytes)] {
        if (!copy.empty()) std::memcpy(to, copy.data(), copy.size());
        return cudaSuccess;
      });
    }
    if (kind == cudaMemcpyDeviceToHost && !pinned(to)) {
      const cudaError_t error = runtime.Flush(stream, stream->queued);
      if (error == cudaSuccess && bytes > 0) std::memcpy(to, from, bytes);
      return error;
    }
  }
  return runtime.Add(stream, [to, from, bytes] {
    if (bytes > 0) std::memmove(to, from, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  T2R_EMULATOR_ENTER(runtime);
  return runtime.Add(stream, [data, value, bytes] {
    if (bytes > 0) std::memset(data, value, bytes);
    return cudaSuccess;
  });
}

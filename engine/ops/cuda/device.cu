#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/device.h"

namespace t2r::cuda {
namespace {

// Every architecture that the module was built for has this kernel.
__global__ void ProbeKernel() {}

}  // namespace

DeviceInfo OpenDevice() {
  int count = 0;
  Check(cudaGetDeviceCount(&count), "the search for a device");
  if (count == 0) Check(cudaErrorNoDevice, "the search for a device");
  Check(cudaSetDevice(0), "cudaSetDevice");
  cudaDeviceProp properties = {};
  Check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  cudaFuncAttributes attributes = {};
  const std::string call = "the start on " + info.name + " (sm_" + std::to_string(info.major) +
                           std::to_string(info.minor) + ")";
  Check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(ProbeKernel)),
        call.c_str());
  return info;
}

}  // namespace t2r::cuda

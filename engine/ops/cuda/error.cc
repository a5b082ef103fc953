#include "engine/ops/cuda/error.h"

#include <string>

#include "engine/ops/tensor.h"

namespace t2r::cuda {
namespace {

const char* Remedy(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "the device's memory is full: lower the number of sessions or the rows of a step, or "
             "free memory that other programs hold";
    case cudaErrorNoDevice:
      return "this machine has no CUDA device, or CUDA_VISIBLE_DEVICES hides it: use the CPU "
             "backend";
    case cudaErrorInsufficientDriver:
      return "the NVIDIA driver is missing or older than this build's CUDA: install a newer one, "
             "or "
             "use the CPU backend";
    case cudaErrorNoKernelImageForDevice:
      return "this build has no code for the device's architecture: build with "
             "T2R_CUDA_ARCHITECTURES naming it";
    case cudaErrorECCUncorrectable:
      return "the device is lost: look at its health with nvidia-smi, then restart";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
      return "the device's state is lost: restart; if it comes again, report it with the model and "
             "the options";
    default:
      return "restart; look at the device with nvidia-smi";
  }
}

DeviceErrorKind KindOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return DeviceErrorKind::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      return DeviceErrorKind::kUnavailable;
    default:
      return DeviceErrorKind::kLost;
  }
}

}  // namespace

void Check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  const char* name = cudaGetErrorName(error);
  const char* text = cudaGetErrorString(error);
  throw DeviceError(KindOf(error), std::string("CUDA: ") + call + " failed with " + name + " (" +
                                       text + "): " + Remedy(error));
}

}  // namespace t2r::cuda

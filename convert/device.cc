#include "convert/device.h"

#include <torch/torch.h>

#include "convert/error.h"

namespace t2r::convert {

torch::Device ParseDevice(const std::string& name, int devices, int rank) {
  if (name == "cpu") return torch::kCPU;
  if (name == "cuda") {
    if (!torch::cuda::is_available()) {
      throw ConvertError("--device cuda: this LibTorch or this machine has no CUDA device");
    }
    const auto there = static_cast<int>(torch::cuda::device_count());
    if (devices > there) {
      throw ConvertError("--devices " + std::to_string(devices) + ": this machine has " +
                         std::to_string(there));
    }
    return {torch::kCUDA, static_cast<torch::DeviceIndex>(rank)};
  }
  throw ConvertError("--device must be cpu or cuda, not '" + name + "'");
}

}  // namespace t2r::convert

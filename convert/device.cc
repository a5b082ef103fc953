#include "convert/device.h"

#include <torch/torch.h>

#include "convert/error.h"

namespace t2r::convert {

torch::Device ParseDevice(const std::string& name) {
  if (name == "cpu") return torch::kCPU;
  if (name == "cuda") {
    if (!torch::cuda::is_available()) {
      throw ConvertError("--device cuda: this LibTorch or this machine has no CUDA device");
    }
    return torch::kCUDA;
  }
  throw ConvertError("--device must be cpu or cuda, not '" + name + "'");
}

}  // namespace t2r::convert

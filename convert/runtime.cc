#include "convert/runtime.h"

#include <dlfcn.h>
#include <malloc.h>
#include <torch/torch.h>

#include <limits>

#include "convert/error.h"

namespace t2r::convert {

std::string PrepareRuntime(int operator_threads) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
  torch::set_num_threads(operator_threads);
  using SetThreads = void (*)(int);
  // No header names it portably, and the BLAS behind libblas.so.3 is the machine's choice.
  if (auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
    set(1);
    return {};
  }
  if (torch::hasMKL()) return {};
  return "LibTorch runs on a BLAS other than OpenBLAS, perhaps the slow reference one: install "
         "libopenblas0";
}

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

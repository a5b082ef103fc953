#include "convert/runtime.h"

#include <dlfcn.h>
#include <malloc.h>
#include <torch/torch.h>

#include <limits>

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

bool HasBfloat16Products() {
#if defined(__x86_64__)
  return at::hasMKLDNN() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

torch::Dtype FastProducts(int64_t width) {
  return width >= 256 && HasBfloat16Products() ? torch::kBFloat16 : torch::kFloat32;
}

}  // namespace t2r::convert

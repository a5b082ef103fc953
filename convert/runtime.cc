#include "convert/runtime.h"

#include <dlfcn.h>
#include <malloc.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <system_error>

namespace t2r::convert {
namespace {

// Whether the BLAS behind libblas.so.3, which is the machine's choice, is OpenBLAS, and has taken
// it.
bool SetOpenBlasThreads(int threads) {
  using SetThreads = void (*)(int);
  // No header names it portably.
  static const auto set =
      reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
  if (set == nullptr) return false;
  set(threads);
  return true;
}

// Whether the processor multiplies bfloat16 itself, and LibTorch uses it.
bool HasBfloat16Products() {
#if defined(__x86_64__)
  return at::hasMKLDNN() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

void RestartWithSleepingWaits(char** argv) {
  // No other thread reads or writes the environment so far.
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  // By its own path, since the process is named after it.
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error || setenv("OMP_WAIT_POLICY", "passive", 1) != 0) return;
  setenv("OPENBLAS_THREAD_TIMEOUT", "4", /*overwrite=*/0);
  execv(program.c_str(), argv);
}

std::string PrepareRuntime() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
  torch::set_num_threads(1);
  if (SetOpenBlasThreads(1) || torch::hasMKL()) return {};
  return "LibTorch runs on a BLAS other than OpenBLAS, perhaps the slow reference one: install "
         "libopenblas0";
}

OperatorThreads::OperatorThreads(int threads) : before_(torch::get_num_threads()) {
  if (threads == before_) return;
  torch::set_num_threads(threads);
  SetOpenBlasThreads(threads);
}

OperatorThreads::~OperatorThreads() {
  if (torch::get_num_threads() == before_) return;
  torch::set_num_threads(before_);
  SetOpenBlasThreads(before_);
}

torch::Dtype FastProducts(int64_t width, torch::Device device) {
  const bool multiplies = device.is_cuda() || HasBfloat16Products();
  return width >= 256 && multiplies ? torch::kBFloat16 : torch::kFloat32;
}

}  // namespace t2r::convert

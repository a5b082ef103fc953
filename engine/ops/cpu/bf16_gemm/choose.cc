#include <array>

#include "engine/ops/cpu/bf16_gemm/kernels.h"
#include "engine/ops/cpu/bf16_gemm/sets.h"

namespace t2r {
namespace {

const Bf16GemmKernels* chosen_for_test = nullptr;

}  // namespace

std::span<const Bf16GemmKernels> Bf16GemmSets() {
  static const std::array kSets = {
#if defined(__x86_64__)
    bf16_gemm::kAmxBf16,
    bf16_gemm::kAvx512Bf16,
#endif
    bf16_gemm::kAmxBf16Twin,
    bf16_gemm::kAvx512Bf16Twin
  };
  return kSets;
}

const Bf16GemmKernels* ChooseBf16Gemm() {
  if (chosen_for_test != nullptr) return chosen_for_test;
  for (const Bf16GemmKernels& set : Bf16GemmSets()) {
    if (!set.twin && set.supported()) return &set;
  }
  return nullptr;
}

void SetBf16GemmForTest(const Bf16GemmKernels* kernels) { chosen_for_test = kernels; }

}  // namespace t2r

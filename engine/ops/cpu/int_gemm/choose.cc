#include <array>

#include "engine/ops/cpu/int_gemm/kernels.h"
#include "engine/ops/cpu/int_gemm/sets.h"

namespace t2r {
namespace {

const IntGemmKernels* chosen_for_test = nullptr;

}  // namespace

std::span<const IntGemmKernels> IntGemmSets() {
  static const std::array kSets = {
#if T2R_INT_X86
    int_gemm::kAmxInt8,
    int_gemm::kAvx512Vnni,
    int_gemm::kAvxVnni,
    int_gemm::kAvx2,
#endif
    int_gemm::kPlain,
    int_gemm::kAmxInt8Twin,
    int_gemm::kAvx2Twin,
    int_gemm::kAvxVnniTwin
  };
  return kSets;
}

const IntGemmKernels& ChooseIntGemm() {
  if (chosen_for_test != nullptr) return *chosen_for_test;
  for (const IntGemmKernels& set : IntGemmSets()) {
    if (!set.twin && set.supported()) return set;
  }
  return int_gemm::kPlain;
}

void SetIntGemmForTest(const IntGemmKernels* kernels) { chosen_for_test = kernels; }

}  // namespace t2r

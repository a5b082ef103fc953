// The instruction sets that choose.cc chooses from. Each is a file of its own.
#pragma once

#include "engine/ops/cpu/bf16_gemm/kernels.h"

namespace t2r::bf16_gemm {

#if defined(__x86_64__)
extern const Bf16GemmKernels kAvx512Bf16;
#endif
extern const Bf16GemmKernels kAvx512Bf16Twin;

}  // namespace t2r::bf16_gemm

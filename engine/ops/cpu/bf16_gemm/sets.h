// The instruction sets that choose.cc chooses from. Each is a file of its own.
#pragma once

#include <type_traits>

#include "engine/ops/cpu/ahead.h"
#include "engine/ops/cpu/bf16_gemm/kernels.h"

namespace t2r::bf16_gemm {

// Bf16GemmKernels::order.
inline constexpr char kPairOrder[] = "bfloat16 products";
inline constexpr char kTileOrder[] = "bfloat16 products in tiles";

#if defined(__x86_64__)
extern const Bf16GemmKernels kAmxBf16;
extern const Bf16GemmKernels kAvx512Bf16;
#endif
extern const Bf16GemmKernels kAmxBf16Twin;
extern const Bf16GemmKernels kAvx512Bf16Twin;

}  // namespace t2r::bf16_gemm

// The instruction sets that choose.cc chooses from. Each is a file of its own.
#pragma once

#include <type_traits>

#include "engine/ops/cpu/ahead.h"
#include "engine/ops/cpu/int_gemm/kernels.h"

#if defined(__x86_64__)
#define T2R_INT_X86 1
#else
#define T2R_INT_X86 0
#endif

// Before loops whose arrays are registers; plain.cc has its own, which keeps them loops.
#ifndef T2R_UNROLL
#define T2R_UNROLL _Pragma("GCC unroll 16")
#endif

namespace t2r::int_gemm {

#if T2R_INT_X86
extern const IntGemmKernels kAmxInt8;
extern const IntGemmKernels kAvx512Vnni;
extern const IntGemmKernels kAvxVnni;
extern const IntGemmKernels kAvx2;
#endif
extern const IntGemmKernels kPlain;  // any machine; of AVX512-VNNI the twin
extern const IntGemmKernels kAmxInt8Twin;
extern const IntGemmKernels kAvx2Twin;
extern const IntGemmKernels kAvxVnniTwin;

}  // namespace t2r::int_gemm

// Quantised products by vpdpbusd in 256 bits, which processors without AVX-512 have as AVX-VNNI.
#include <hwy/base.h>

#include "engine/ops/cpu/int_gemm/sets.h"

#if T2R_INT_X86
#include <cpuid.h>
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx2,avxvnni")
namespace t2r::int_gemm {
namespace avx_vnni {
namespace {

#include "engine/ops/cpu/int_gemm/pair-inl.h"
#include "engine/ops/cpu/int_gemm/tile-inl.h"
#include "engine/ops/cpu/int_gemm/ymm-inl.h"

struct Ops : YmmOps {
  using Prepared = __m256i;
  static constexpr bool kSigned8 = false;
  static HWY_INLINE Prepared Prepare(__m256i codes) { return codes; }
  static HWY_INLINE __m256i Dot8(__m256i sums, __m256i codes, __m256i x) {
    return _mm256_dpbusd_avx_epi32(sums, codes, x);
  }
  static HWY_INLINE __m256i Dot4(__m256i sums, __m256i codes, __m256i x) {
    return _mm256_dpbusd_avx_epi32(sums, codes, x);
  }
};

using Isa = PairIsa<Ops>;

// AVX2 says that the system keeps the registers; compilers' own question does not know AVX-VNNI.
bool Supported() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__builtin_cpu_supports("avx2") == 0) return false;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1U << 4)) != 0;
}

}  // namespace
}  // namespace avx_vnni

const IntGemmKernels kAvxVnni = {"AVX-VNNI", avx_vnni::Supported,
                                 avx_vnni::TileShape<avx_vnni::Isa>::kAtOnce,
                                 avx_vnni::RunInt<avx_vnni::Isa>, false};

}  // namespace t2r::int_gemm
HWY_POP_ATTRIBUTES

#endif

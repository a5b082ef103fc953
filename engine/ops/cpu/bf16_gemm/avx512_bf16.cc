// Products of bfloat16 pairs by AVX512-BF16's vdpbf16ps.
#include <hwy/base.h>

#include "engine/ops/cpu/bf16_gemm/sets.h"

#if defined(__x86_64__)
// Its own "undefined" values are what the compiler warns of.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)

#define T2R_UNROLL _Pragma("GCC unroll 16")

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace t2r::bf16_gemm {
namespace {

#include "engine/ops/cpu/zmm-inl.h"

struct Isa : ZmmFloats {
  using Pairs = __m512i;

  static HWY_INLINE Pairs LoadPairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static HWY_INLINE Pairs Broadcast(uint32_t pair) {
    return _mm512_set1_epi32(static_cast<int32_t>(pair));
  }
  static HWY_INLINE Floats Dot(Floats sums, Pairs weights, Pairs x) {
    return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(weights),
                            reinterpret_cast<__m512bh>(x));
  }
  static HWY_INLINE void RoundPairs(const float* x, uint32_t* pairs) {
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
    _mm512_storeu_si512(pairs, reinterpret_cast<__m512i>(both));
  }
};

#include "engine/ops/cpu/bf16_gemm/tile-inl.h"

bool Supported() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512bf16") != 0;
}

}  // namespace

const Bf16GemmKernels kAvx512Bf16 = {"AVX512-BF16", kPairOrder,   Supported, kAtOnce, 2,
                                     RoundRow<Isa>, RunBf16<Isa>, false};

}  // namespace t2r::bf16_gemm
HWY_POP_ATTRIBUTES

#endif

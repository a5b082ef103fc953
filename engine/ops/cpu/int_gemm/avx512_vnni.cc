// Quantised products by AVX-512's vpdpbusd: 64 products and their sums an instruction.
#include <hwy/base.h>

#include "engine/ops/cpu/int_gemm/sets.h"

#if T2R_INT_X86
// Its own "undefined" values are what the compiler warns of.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
namespace t2r::int_gemm {
namespace avx512_vnni {
namespace {

#include "engine/ops/cpu/zmm-inl.h"

struct Isa : ZmmInts {
  using Input = __m512i;
  using Codes8 = __m512i;
  using Codes4 = __m512i;
  static constexpr int kAccumulators = 12;  // and as many float32 sums: 24 of 32 registers
  static constexpr bool kSigned8 = false;

  static HWY_INLINE Input Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static HWY_INLINE Codes8 Load8(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static HWY_INLINE void Load4(const uint8_t* p, Codes4& low, Codes4& high) {
    const __m512i both = _mm512_loadu_si512(p);
    const __m512i mask = _mm512_set1_epi8(15);
    low = _mm512_and_si512(both, mask);
    high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
  }
  static HWY_INLINE Ints Dot8(Ints sums, Codes8 codes, Input x) {
    return _mm512_dpbusd_epi32(sums, codes, x);
  }
  static HWY_INLINE Ints Dot4(Ints sums, Codes4 codes, Input x) {
    return _mm512_dpbusd_epi32(sums, codes, x);
  }
};

#include "engine/ops/cpu/int_gemm/tile-inl.h"

bool Supported() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512vnni") != 0;
}

}  // namespace
}  // namespace avx512_vnni

const IntGemmKernels kAvx512Vnni = {"AVX512-VNNI", avx512_vnni::Supported,
                                    avx512_vnni::TileShape<avx512_vnni::Isa>::kAtOnce,
                                    avx512_vnni::RunInt<avx512_vnni::Isa>, false};

}  // namespace t2r::int_gemm
HWY_POP_ATTRIBUTES

#endif

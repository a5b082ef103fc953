// Quantised products by AVX2's vpmaddubsw.
#include <hwy/base.h>

#include "engine/ops/cpu/int_gemm/sets.h"

#if T2R_INT_X86
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx2")
namespace t2r::int_gemm {
namespace avx2 {
namespace {

#include "engine/ops/cpu/int_gemm/pair-inl.h"
#include "engine/ops/cpu/int_gemm/tile-inl.h"
#include "engine/ops/cpu/int_gemm/ymm-inl.h"

struct Instructions {
  using Half = __m256i;
  static HWY_INLINE Half Abs(Half a) { return _mm256_abs_epi8(a); }
  static HWY_INLINE Half Flip(Half a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
  static HWY_INLINE Half Sign(Half a, Half b) { return _mm256_sign_epi8(a, b); }
  static HWY_INLINE Half MulPairs(Half a, Half b) { return _mm256_maddubs_epi16(a, b); }
  static HWY_INLINE Half AddPairs(Half a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
  static HWY_INLINE Half AddInts(Half a, Half b) { return _mm256_add_epi32(a, b); }
};

struct Ops : YmmOps, MaddubsDots<Instructions> {
  using Half = __m256i;
};

using Isa = PairIsa<Ops>;

bool Supported() { return __builtin_cpu_supports("avx2") != 0; }

}  // namespace
}  // namespace avx2

const IntGemmKernels kAvx2 = {"AVX2", avx2::Supported, avx2::TileShape<avx2::Isa>::kAtOnce,
                              avx2::RunInt<avx2::Isa>, false};

}  // namespace t2r::int_gemm
HWY_POP_ATTRIBUTES

#endif

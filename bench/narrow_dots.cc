#include "bench/narrow_dots.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace t2r::bench {

bool HasBf16Dot() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bf16") != 0;
}

__attribute__((target("avx512f,avx512bf16"))) double Bf16Dots(int64_t rounds, float* sink) {
  constexpr int kChains = 12;  // enough to hide the latency
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(*sink + 1e-3F), _mm512_set1_ps(1e-3F));
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(*sink + static_cast<float>(i));
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, x, x);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  *sink = _mm512_cvtss_f32(sums[0]) * 1e-30F;
  return 2.0 * 32 * kChains * static_cast<double>(rounds);
}

bool HasInt8Dot() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
}

__attribute__((target("avx512f,avx512vnni"))) double Int8Dots(int64_t rounds, float* sink) {
  constexpr int kChains = 12;
  const __m512i x = _mm512_set1_epi32(static_cast<int>(*sink) + 0x01020304);
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, x);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, sums[0]);
  *sink = static_cast<float>(lanes[0]) * 1e-30F;
  return 2.0 * 64 * kChains * static_cast<double>(rounds);
}

}  // namespace t2r::bench
#else
namespace t2r::bench {

bool HasBf16Dot() { return false; }
double Bf16Dots(int64_t /*rounds*/, float* /*sink*/) { return 0; }
bool HasInt8Dot() { return false; }
double Int8Dots(int64_t /*rounds*/, float* /*sink*/) { return 0; }

}  // namespace t2r::bench
#endif

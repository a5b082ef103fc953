// What the sets with 256-bit registers share: Ops of PairIsa but for the dot products. Included as
// tile-inl.h is.
struct YmmOps {
  using Half = __m256i;
  using HalfFloats = __m256;

  static HWY_INLINE Half SetInts(int32_t v) { return _mm256_set1_epi32(v); }
  static HWY_INLINE HalfFloats SetFloats(float v) { return _mm256_set1_ps(v); }
  static HWY_INLINE Half Load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  template <bool kUpper>
  static HWY_INLINE Half Nibbles(Half v) {
    return _mm256_and_si256(kUpper ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
  }
  static HWY_INLINE Half NextByte(Half sums, int32_t more) {
    return _mm256_add_epi32(_mm256_slli_epi32(sums, 8), _mm256_set1_epi32(more));
  }
  static HWY_INLINE HalfFloats ToFloats(Half v) { return _mm256_cvtepi32_ps(v); }
  static HWY_INLINE HalfFloats Widen(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static HWY_INLINE HalfFloats Mul(HalfFloats a, HalfFloats b) { return _mm256_mul_ps(a, b); }
  static HWY_INLINE HalfFloats Add(HalfFloats a, HalfFloats b) { return _mm256_add_ps(a, b); }
  static HWY_INLINE HalfFloats LoadFloats(const float* p) { return _mm256_loadu_ps(p); }
  static HWY_INLINE void StoreFloats(HalfFloats v, float* p) { _mm256_storeu_ps(p, v); }
};

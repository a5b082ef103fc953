// 16 floats or 32-bit integers in a register of AVX-512. No include guard: each .cc of an
// instruction set includes it inside the set's namespace, below the attributes that name the set to
// the compiler.
struct ZmmFloats {
  using Floats = __m512;

  static HWY_INLINE Floats SetFloats(float v) { return _mm512_set1_ps(v); }
  // bfloat16.
  static HWY_INLINE Floats Widen(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static HWY_INLINE Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static HWY_INLINE Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static HWY_INLINE Floats LoadFloats(const float* p) { return _mm512_loadu_ps(p); }
  static HWY_INLINE void StoreFloats(Floats v, float* p) { _mm512_storeu_ps(p, v); }
};

struct ZmmInts : ZmmFloats {
  using Ints = __m512i;

  static HWY_INLINE Ints SetInts(int32_t v) { return _mm512_set1_epi32(v); }
  static HWY_INLINE Ints LoadInts(const int32_t* p) { return _mm512_loadu_si512(p); }
  static HWY_INLINE Ints AddInts(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static HWY_INLINE Ints NextByte(Ints sums, int32_t more) {
    return AddInts(_mm512_slli_epi32(sums, 8), SetInts(more));
  }
  static HWY_INLINE Floats ToFloats(Ints v) { return _mm512_cvtepi32_ps(v); }
};

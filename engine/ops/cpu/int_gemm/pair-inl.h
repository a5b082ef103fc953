// 16 lanes out of two registers of 8, and dot products without vpdpbusd. Included as tile-inl.h is.
//
// A set's Ops has Half and HalfFloats, 32 bytes in a register, with SetInts, SetFloats, Load,
// Nibbles (the lower or upper halves of bytes), NextByte, ToFloats, Widen, Mul, Add, LoadFloats and
// StoreFloats, and Prepare, Dot8 and Dot4 as Isa's Load8, Dot8 and Dot4 for 8 features.
template <class Ops>
struct PairIsa {
  struct Ints {
    typename Ops::Half low, high;
  };
  struct Floats {
    typename Ops::HalfFloats low, high;
  };
  struct Codes8 {
    typename Ops::Prepared low, high;
  };
  using Codes4 = Ints;
  using Input = typename Ops::Half;
  static constexpr int kAccumulators = 4;  // 8 of 16 registers; float32 sums wait in memory
  static constexpr bool kSigned8 = Ops::kSigned8;

  static HWY_INLINE Ints SetInts(int32_t v) { return {Ops::SetInts(v), Ops::SetInts(v)}; }
  static HWY_INLINE Floats SetFloats(float v) { return {Ops::SetFloats(v), Ops::SetFloats(v)}; }
  static HWY_INLINE Input Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return Ops::SetInts(four);
  }
  static HWY_INLINE Codes8 Load8(const uint8_t* p) {
    return {Ops::Prepare(Ops::Load(p)), Ops::Prepare(Ops::Load(p + 32))};
  }
  static HWY_INLINE void Load4(const uint8_t* p, Codes4& low, Codes4& high) {
    const auto a = Ops::Load(p);
    const auto b = Ops::Load(p + 32);
    low = {Ops::template Nibbles<false>(a), Ops::template Nibbles<false>(b)};
    high = {Ops::template Nibbles<true>(a), Ops::template Nibbles<true>(b)};
  }
  static HWY_INLINE Ints Dot8(Ints sums, Codes8 codes, Input x) {
    return {Ops::Dot8(sums.low, codes.low, x), Ops::Dot8(sums.high, codes.high, x)};
  }
  static HWY_INLINE Ints Dot4(Ints sums, Codes4 codes, Input x) {
    return {Ops::Dot4(sums.low, codes.low, x), Ops::Dot4(sums.high, codes.high, x)};
  }
  static HWY_INLINE Ints NextByte(Ints sums, int32_t more) {
    return {Ops::NextByte(sums.low, more), Ops::NextByte(sums.high, more)};
  }
  static HWY_INLINE Floats ToFloats(Ints v) {
    return {Ops::ToFloats(v.low), Ops::ToFloats(v.high)};
  }
  static HWY_INLINE Floats Widen(const uint16_t* p) { return {Ops::Widen(p), Ops::Widen(p + 8)}; }
  static HWY_INLINE Floats Mul(Floats a, Floats b) {
    return {Ops::Mul(a.low, b.low), Ops::Mul(a.high, b.high)};
  }
  static HWY_INLINE Floats Add(Floats a, Floats b) {
    return {Ops::Add(a.low, b.low), Ops::Add(a.high, b.high)};
  }
  static HWY_INLINE Floats LoadFloats(const float* p) {
    return {Ops::LoadFloats(p), Ops::LoadFloats(p + 8)};
  }
  static HWY_INLINE void StoreFloats(Floats v, float* p) {
    Ops::StoreFloats(v.low, p);
    Ops::StoreFloats(v.high, p + 8);
  }
};

// Dot products over AVX2's
//   Abs(a), Flip(a)    |a| of signed bytes; a with the uppermost bit of each byte the other way
//   round Sign(a, b)         byte by byte a where b > 0, 0 where b = 0, −a where b < 0 (vpsignb)
//   MulPairs(a, b)     unsigned bytes a times signed b, neighbours added in 16 bits and saturated
//                      (vpmaddubsw)
//   AddPairs(a)        neighbours of 16 bits added in 32 (vpmaddwd with ones)
//   AddInts(a, b)      32 bits
//
// MulPairs saturates beyond 32,767. int4's codes are at most 15 and activations at most 127 in
// magnitude: 2 · 15 · 127 = 3,810. int8's codes go to 255, which would not fit; so their
// magnitudes, at most 127, meet activations that take over the codes' signs: 2 · 127 · 127 =
// 32,258.
template <class Instructions>
struct MaddubsDots {
  using I = Instructions;
  using Half = typename I::Half;
  struct Prepared {
    Half magnitudes, codes;
  };
  static constexpr bool kSigned8 = true;

  static HWY_INLINE Prepared Prepare(Half unsigned_codes) {
    const Half codes = I::Flip(unsigned_codes);
    return {I::Abs(codes), codes};
  }
  static HWY_INLINE Half Dot8(Half sums, Prepared codes, Half x) {
    const Half products = I::MulPairs(codes.magnitudes, I::Sign(x, codes.codes));
    return I::AddInts(sums, I::AddPairs(products));
  }
  static HWY_INLINE Half Dot4(Half sums, Half codes, Half x) {
    return I::AddInts(sums, I::AddPairs(I::MulPairs(codes, x)));
  }
};

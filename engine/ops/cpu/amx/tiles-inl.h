// The tile instructions, by the registers' numbers. No include guard: each .cc of an instruction
// set includes it inside the set's namespace, below the attributes that name the set to the
// compiler. Written as assembly, since the compiler's own forms take literal numbers only and say
// nothing of the memory they read.
struct AmxTiles {
  static HWY_INLINE void Configure(const TileConfig& config) {
    asm volatile("ldtilecfg (%0)" : : "r"(&config) : "memory");
  }
  static HWY_INLINE void Release() { asm volatile("tilerelease" : : : "memory"); }
  template <int kTile>
  static HWY_INLINE void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  // Rows `stride` bytes apart.
  template <int kTile>
  static HWY_INLINE void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static HWY_INLINE void Store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  // sums += a b: of groups of four bytes, a's signed and b's unsigned, in 32-bit integers.
  template <int kSums, int kA, int kB>
  static HWY_INLINE void DotSignedUnsigned() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
  }
  // sums += a b of pairs of bfloat16, as bf16_gemm/kernels.h says.
  template <int kSums, int kA, int kB>
  static HWY_INLINE void DotBf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
  }
};

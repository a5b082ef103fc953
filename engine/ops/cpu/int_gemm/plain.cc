// Quantised products in plain C++: what any machine runs, and a twin of each vector instruction,
// over which the kernels' source is tested on machines without that instruction.
#define T2R_UNROLL _Pragma("GCC unroll 1")
#include <hwy/base.h>

#include "engine/ops/cpu/amx/tiles_twin.h"
#include "engine/ops/cpu/int_gemm/sets.h"
#include "engine/ops/cpu/plain_lanes.h"

namespace t2r::int_gemm {
namespace {

#include "engine/ops/cpu/int_gemm/pair-inl.h"
#include "engine/ops/cpu/int_gemm/tile-inl.h"
// After what it builds on.
#include "engine/ops/cpu/int_gemm/amx-inl.h"

// vpdpbusd: in each lane, sum + Σ of 4 unsigned codes times 4 signed activations.
template <int kLanes>
Lanes<int32_t, kLanes> DotBytes(Lanes<int32_t, kLanes> sums,
                                const Lanes<uint8_t, 4 * kLanes>& codes, const int8_t (&x)[4]) {
  for (int i = 0; i < kLanes; ++i) {
    int32_t sum = sums.v[i];
    for (int j = 0; j < 4; ++j) sum += static_cast<int32_t>(codes.v[4 * i + j]) * x[j];
    sums.v[i] = sum;
  }
  return sums;
}

struct PlainIsa : PlainInts<kIntPanel> {
  static constexpr int kLanes = static_cast<int>(kIntPanel);
  using Input = const int8_t*;
  using Codes8 = Lanes<uint8_t, 4 * kLanes>;
  using Codes4 = Codes8;
  static constexpr int kAccumulators = 4;
  static constexpr bool kSigned8 = false;

  static Input Broadcast(const int8_t* x) { return x; }
  static Codes8 Load8(const uint8_t* p) {
    Codes8 codes;
    __builtin_memcpy(codes.v, p, sizeof(codes.v));
    return codes;
  }
  static void Load4(const uint8_t* p, Codes4& low, Codes4& high) {
    for (int i = 0; i < 4 * kLanes; ++i) {
      low.v[i] = p[i] & 15U;
      high.v[i] = static_cast<uint8_t>(p[i] >> 4);
    }
  }
  static Ints Dot8(const Ints& sums, const Codes8& codes, Input x) {
    const int8_t four[4] = {x[0], x[1], x[2], x[3]};
    return DotBytes<kLanes>(sums, codes, four);
  }
  static Ints Dot4(const Ints& sums, const Codes4& codes, Input x) { return Dot8(sums, codes, x); }
};

// Of AVX2's registers: 32 bytes.
struct TwinOps : PlainFloats<8> {
  using Half = Lanes<int8_t, 32>;
  using HalfFloats = Floats;

  static Half SetInts(int32_t v) {
    Half all;
    for (int i = 0; i < 8; ++i) __builtin_memcpy(all.v + 4 * i, &v, sizeof(v));
    return all;
  }
  static Half Load(const uint8_t* p) {
    Half all;
    __builtin_memcpy(all.v, p, sizeof(all.v));
    return all;
  }
  template <bool kUpper>
  static Half Nibbles(Half all) {
    for (int8_t& v : all.v) {
      const auto bits = static_cast<uint8_t>(v);
      v = static_cast<int8_t>(kUpper ? bits >> 4 : bits & 15U);
    }
    return all;
  }
  static Lanes<int32_t, 8> AsInts(const Half& all) {
    Lanes<int32_t, 8> ints;
    __builtin_memcpy(ints.v, all.v, sizeof(ints.v));
    return ints;
  }
  static Half NextByte(const Half& sums, int32_t more) {
    Lanes<int32_t, 8> ints = AsInts(sums);
    for (int32_t& v : ints.v) v = v * 256 + more;
    Half all;
    __builtin_memcpy(all.v, ints.v, sizeof(all.v));
    return all;
  }
  static HalfFloats ToFloats(const Half& all) {
    const Lanes<int32_t, 8> ints = AsInts(all);
    HalfFloats floats;
    for (int i = 0; i < 8; ++i) floats.v[i] = static_cast<float>(ints.v[i]);
    return floats;
  }
};

struct TwinInstructions {
  using Half = TwinOps::Half;
  static Half Abs(Half a) {
    for (int8_t& v : a.v) v = static_cast<int8_t>(v < 0 ? -v : v);
    return a;
  }
  static Half Flip(Half a) {
    for (int8_t& v : a.v) v = static_cast<int8_t>(static_cast<uint8_t>(v) ^ 0x80U);
    return a;
  }
  static Half Sign(Half a, const Half& b) {
    for (int i = 0; i < 32; ++i) {
      if (b.v[i] <= 0) a.v[i] = static_cast<int8_t>(b.v[i] == 0 ? 0 : -a.v[i]);
    }
    return a;
  }
  static Half MulPairs(const Half& a, const Half& b) {
    Lanes<int16_t, 16> products;
    for (int i = 0; i < 16; ++i) {
      int32_t sum = 0;
      for (int j = 2 * i; j < 2 * i + 2; ++j) sum += static_cast<uint8_t>(a.v[j]) * b.v[j];
      sum = sum < -32768 ? -32768 : sum;
      products.v[i] = static_cast<int16_t>(sum > 32767 ? 32767 : sum);
    }
    Half all;
    __builtin_memcpy(all.v, products.v, sizeof(all.v));
    return all;
  }
  static Half AddPairs(const Half& a) {
    Lanes<int16_t, 16> words;
    __builtin_memcpy(words.v, a.v, sizeof(words.v));
    Lanes<int32_t, 8> sums;
    for (int i = 0; i < 8; ++i) sums.v[i] = words.v[2 * i] + words.v[2 * i + 1];
    Half all;
    __builtin_memcpy(all.v, sums.v, sizeof(all.v));
    return all;
  }
  static Half AddInts(const Half& a, const Half& b) {
    Lanes<int32_t, 8> sums = TwinOps::AsInts(a);
    const Lanes<int32_t, 8> more = TwinOps::AsInts(b);
    for (int i = 0; i < 8; ++i) sums.v[i] += more.v[i];
    Half all;
    __builtin_memcpy(all.v, sums.v, sizeof(all.v));
    return all;
  }
};

struct Avx2Twin : TwinOps, MaddubsDots<TwinInstructions> {
  using Half = TwinOps::Half;
};
using Avx2TwinIsa = PairIsa<Avx2Twin>;

// AVX-VNNI's: the loops over pairs of registers, vpdpbusd in each.
struct AvxVnniTwin : TwinOps {
  using Prepared = Half;
  static constexpr bool kSigned8 = false;
  static Prepared Prepare(const Half& codes) { return codes; }
  static Half Dot8(const Half& sums, const Half& codes, const Half& x) {
    Lanes<uint8_t, 32> bytes;
    __builtin_memcpy(bytes.v, codes.v, sizeof(bytes.v));
    const int8_t four[4] = {x.v[0], x.v[1], x.v[2], x.v[3]};
    const Lanes<int32_t, 8> dots = DotBytes<8>(AsInts(sums), bytes, four);
    Half all;
    __builtin_memcpy(all.v, dots.v, sizeof(all.v));
    return all;
  }
  static Half Dot4(const Half& sums, const Half& codes, const Half& x) {
    return Dot8(sums, codes, x);
  }
};
using AvxVnniTwinIsa = PairIsa<AvxVnniTwin>;

bool Always() { return true; }

}  // namespace

const IntGemmKernels kPlain = {"plain", Always, TileShape<PlainIsa>::kAtOnce, RunInt<PlainIsa>,
                               false};
const IntGemmKernels kAvx2Twin = {"twin of AVX2", Always, TileShape<Avx2TwinIsa>::kAtOnce,
                                  RunInt<Avx2TwinIsa>, true};
const IntGemmKernels kAvxVnniTwin = {"twin of AVX-VNNI", Always, TileShape<AvxVnniTwinIsa>::kAtOnce,
                                     RunInt<AvxVnniTwinIsa>, true};
const IntGemmKernels kAmxInt8Twin = {
    "twin of AMX-INT8", Always, {3, 4, 2}, RunAmx<PlainIsa, AmxTilesTwin, kPlain>, true};

}  // namespace t2r::int_gemm

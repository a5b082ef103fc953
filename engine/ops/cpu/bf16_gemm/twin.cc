// Plain twins of the sets' instructions, over which the kernels' source is tested on machines
// without them. Built without contraction (-ffp-contract=off): what is fused is written so.
#include <hwy/base.h>

#include <cmath>

#include "engine/ops/cpu/amx/tiles_twin.h"
#include "engine/ops/cpu/bf16_gemm/sets.h"
#include "engine/ops/cpu/plain_lanes.h"

#define T2R_UNROLL _Pragma("GCC unroll 1")

namespace t2r::bf16_gemm {
namespace {

struct Isa : PlainFloats<16> {
  using Pairs = Lanes<uint32_t, 16>;

  static Pairs LoadPairs(const uint32_t* p) {
    Pairs all;
    __builtin_memcpy(all.v, p, sizeof(all.v));
    return all;
  }
  static Pairs Broadcast(uint32_t pair) {
    Pairs all;
    for (uint32_t& lane : all.v) lane = pair;
    return all;
  }
  // vdpbf16ps: the upper halves' product first.
  static Floats Dot(Floats sums, const Pairs& weights, const Pairs& x) {
    const auto half = [](uint32_t pair, int shift) {
      return WithoutSubnormal(BFloat16ToFloat(static_cast<uint16_t>(pair >> shift)));
    };
    for (int i = 0; i < 16; ++i) {
      float sum = WithoutSubnormal(sums.v[i]);
      for (const int shift : {16, 0}) {
        sum = WithoutSubnormal(std::fma(half(weights.v[i], shift), half(x.v[i], shift), sum));
      }
      sums.v[i] = sum;
    }
    return sums;
  }
  // vcvtne2ps2bf16, whose subnormals are zeros too.
  static void RoundPairs(const float* x, uint32_t* pairs) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t low = FloatToBFloat16(WithoutSubnormal(x[2 * i]));
      const uint32_t high = FloatToBFloat16(WithoutSubnormal(x[2 * i + 1]));
      pairs[i] = high << 16 | low;
    }
  }
};

#include "engine/ops/cpu/bf16_gemm/tile-inl.h"
// After what it builds on.
#include "engine/ops/cpu/bf16_gemm/amx-inl.h"

bool Always() { return true; }

}  // namespace

const Bf16GemmKernels kAvx512Bf16Twin = {"twin of AVX512-BF16", kPairOrder,   Always, kAtOnce, 2,
                                         RoundRow<Isa>,         RunBf16<Isa>, true};
const Bf16GemmKernels kAmxBf16Twin = {"twin of AMX-BF16",
                                      kTileOrder,
                                      Always,
                                      PanelsAtOnce(),
                                      2 * kTilePairs,
                                      RoundTileRow<kAvx512Bf16Twin>,
                                      RunTiles<Isa, AmxTilesTwin>,
                                      true};

}  // namespace t2r::bf16_gemm

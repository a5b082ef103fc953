// Products of bfloat16 pairs by AMX-BF16's tdpbf16ps.
#include <hwy/base.h>

#include "engine/ops/cpu/bf16_gemm/sets.h"

#if defined(__x86_64__)
#include "engine/ops/cpu/amx/config.h"
#include "engine/ops/cpu/amx/probe.h"

// Its own "undefined" values are what the compiler warns of.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)

#define T2R_UNROLL _Pragma("GCC unroll 16")

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-bf16")
namespace t2r::bf16_gemm {
namespace amx_bf16 {
namespace {

#include "engine/ops/cpu/amx/tiles-inl.h"
#include "engine/ops/cpu/finish-inl.h"
#include "engine/ops/cpu/zmm-inl.h"
// After what it builds on.
#include "engine/ops/cpu/bf16_gemm/amx-inl.h"

bool Supported() { return kAvx512Bf16.supported() && Amx().bfloat16; }

}  // namespace
}  // namespace amx_bf16

const Bf16GemmKernels kAmxBf16 = {"AMX-BF16",
                                  kTileOrder,
                                  amx_bf16::Supported,
                                  PanelsAtOnce(),
                                  2 * kTilePairs,
                                  amx_bf16::RoundTileRow<kAvx512Bf16>,
                                  amx_bf16::RunTiles<amx_bf16::ZmmFloats, amx_bf16::AmxTiles>,
                                  false};

}  // namespace t2r::bf16_gemm
HWY_POP_ATTRIBUTES

#endif

// Quantised products by AMX-INT8's tdpbsud: 16 rows × 16 output features × a group of input
// features an instruction.
#include <hwy/base.h>

#include "engine/ops/cpu/int_gemm/sets.h"

#if T2R_INT_X86
#include "engine/ops/cpu/amx/config.h"
#include "engine/ops/cpu/amx/probe.h"

// Its own "undefined" values are what the compiler warns of.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-int8")
namespace t2r::int_gemm {
namespace amx_int8 {
namespace {

#include "engine/ops/cpu/amx/tiles-inl.h"
#include "engine/ops/cpu/int_gemm/tile-inl.h"
#include "engine/ops/cpu/zmm-inl.h"
// After what it builds on.
#include "engine/ops/cpu/int_gemm/amx-inl.h"

bool Supported() { return kAvx512Vnni.supported() && Amx().int8; }

}  // namespace
}  // namespace amx_int8

// Few rows are AVX512-VNNI's, with its panels at once. Tiles are too fast for threads to read all
// panels each.
const IntGemmKernels kAmxInt8 = {
    "AMX-INT8",
    amx_int8::Supported,
    {3, 4, 2},
    amx_int8::RunAmx<amx_int8::ZmmInts, amx_int8::AmxTiles, kAvx512Vnni>,
    false};

}  // namespace t2r::int_gemm
HWY_POP_ATTRIBUTES

#endif

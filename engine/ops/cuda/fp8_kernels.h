// Products with weights in 8-bit floating point, around cuBLASLt's (gemm.h): what rows become
// before it and after.
//
// The type is e4m3 (Micikevicius et al. 2022, arXiv 2209.05433): a sign, 4 bits of exponent and 3
// of fraction, up to 448, no infinities. A weight is a code times the scale of its output feature,
// an activation a code times the scale of its row, both scales the largest magnitude / 448; so each
// is off by a 16th of itself at most, or, below a 28,672th of its row's largest, by half of a step
// of 2⁻⁹ scales.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/ops/cuda/scaled_sums.h"
#include "engine/ops/tensor.h"

namespace t2r::cuda {

// codes [x.rows, stride], zeros from x.cols on; scales [x.rows]. A row whose largest magnitude is
// below 1e-30 becomes zero; the scale of one that has a NaN or an infinity is NaN.
void EncodeRows(cudaStream_t stream, Tensor x, uint8_t* codes, int64_t stride, float* scales);

// out[t, n] (+)= row_scales[t] · channel_scales[n] · sums[t, n] + bias[n]; rows of `sums` are
// `stride` long.
void ScaleSums(cudaStream_t stream, const ScaledSums<float>& args, Tensor out);

}  // namespace t2r::cuda

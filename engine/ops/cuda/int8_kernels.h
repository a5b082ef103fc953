// Products with weights in 8 bits, around cuBLASLt's (gemm.h): what rows become before it and
// after.
//
// A weight is a code of −127 … 127 times the scale of its output feature. A row of activations is
// cut into 16 bits, x ≈ s · (256 · high + low) with one s a row and high and low each an int8, and
// the product takes both as rows of their own: twice the rows, and the weights' bytes once. With 8
// bits alone the error would be the row's largest value over 254, and rows of real models have
// outliers. Sums of integers are exact, so that a row's bits depend on nothing beside it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/ops/cuda/scaled_sums.h"
#include "engine/ops/tensor.h"

namespace t2r::cuda {

// Codes of `count` output features with `cols` weights each, [count, cols] without gaps. Rows of
// `codes` are `stride` long, with zeros from cols on. A row's scale is its largest magnitude / 127.
void QuantizeChannels(cudaStream_t stream, const float* weights, int64_t count, int64_t cols,
                      int8_t* codes, int64_t stride, float* scales);

// planes [2 · x.rows, stride]: of row t the high bytes in row 2t, the low ones in row 2t + 1, zeros
// from x.cols on; scales [x.rows]. A row whose largest magnitude is below 1e-30 becomes zero; the
// scale of one that has a NaN or an infinity is NaN.
void SplitRows(cudaStream_t stream, Tensor x, int8_t* planes, int64_t stride, float* scales);

// out[t, n] (+)= row_scales[t] · channel_scales[n] · (256 · sums[2t, n] + sums[2t + 1, n]) +
// bias[n]; rows of `sums` are `stride` long.
void CombinePlanes(cudaStream_t stream, const ScaledSums<int32_t>& args, Tensor out);

}  // namespace t2r::cuda

// Rows of weights and activations as integers, and the products' sums as numbers again.
#include "engine/ops/cuda/int8_kernels.h"
#include "engine/ops/cuda/row_scale.h"

namespace t2r::cuda {
namespace {

constexpr float kMaxCode = 127.0F;
// Of 16 bits: so that the high byte of the largest, rounded, is 127 still.
constexpr float kMaxSplit = 127.0F * 256.0F;

// To the nearest step, ties to even. Any code will do for NaN: its row's scale is NaN.
__device__ __forceinline__ int CodeOf(float value, float inverse, float codes) {
  return static_cast<int>(fminf(fmaxf(rintf(value * inverse), -codes), codes));
}

// A block an output feature. Bytes: 4 a weight in, the second reading from cache, and 1 out. At
// load time.
__global__ void __launch_bounds__(kScaleThreads)
    QuantizeChannelsKernel(RowsOf<float> weights, int64_t cols, int8_t* codes, int64_t stride,
                           float* scales) {
  T2R_SHARED(float, parts, kScaleWarps);
  const int64_t row = blockIdx.x;
  const Step step = StepOf(LargestOf(weights, row, cols, parts), kMaxCode);
  if (threadIdx.x == 0) scales[row] = step.scale;
  float v[kColumns];
  for (int64_t c = threadIdx.x * kColumns; c < stride; c += kScaleThreads * kColumns) {
    weights.Load(row, c, cols, v);
    Pack<int8_t, kColumns> pack;
    for (int i = 0; i < kColumns; ++i) {
      pack.v[i] = static_cast<int8_t>(CodeOf(v[i], step.inverse, kMaxCode));
    }
    *reinterpret_cast<Pack<int8_t, kColumns>*>(codes + row * stride + c) = pack;
  }
}

// A block a row. Bytes a row: cols elements in, the second reading from cache, and 2 · stride out.
// Operations: about 10 a column.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads)
    SplitRowsKernel(RowsOf<T> x, int64_t cols, int8_t* planes, int64_t stride, float* scales) {
  T2R_SHARED(float, parts, kScaleWarps);
  const int64_t row = blockIdx.x;
  const Step step = StepOf(LargestOf(x, row, cols, parts), kMaxSplit);
  if (threadIdx.x == 0) scales[row] = step.scale;
  int8_t* const high_row = planes + 2 * row * stride;
  float v[kColumns];
  for (int64_t c = threadIdx.x * kColumns; c < stride; c += kScaleThreads * kColumns) {
    x.Load(row, c, cols, v);
    Pack<int8_t, kColumns> high;
    Pack<int8_t, kColumns> low;
    for (int i = 0; i < kColumns; ++i) {
      const int code = CodeOf(v[i], step.inverse, kMaxSplit);
      const int rounded = (code + 128 + 32768) / 256 - 128;  // of a sum that is not negative
      high.v[i] = static_cast<int8_t>(rounded);
      low.v[i] = static_cast<int8_t>(code - 256 * rounded);
    }
    *reinterpret_cast<Pack<int8_t, kColumns>*>(high_row + c) = high;
    *reinterpret_cast<Pack<int8_t, kColumns>*>(high_row + stride + c) = low;
  }
}

// Bytes a row: 8 a column of sums, the out's element, twice where it accumulates; scales and bias
// from cache. Operations: about 6 a column.
template <typename Out>
__global__ void __launch_bounds__(kElementThreads)
    CombinePlanesKernel(ScaledSums<int32_t> args, int64_t cols, RowsOf<Out> out) {
  const int64_t c = ElementColumn();
  if (c >= cols) return;
  const int64_t row = blockIdx.x;
  const int32_t* const high = args.sums + 2 * row * args.stride + c;
  const auto highs = *reinterpret_cast<const Pack<int32_t, kColumns>*>(high);
  const auto lows = *reinterpret_cast<const Pack<int32_t, kColumns>*>(high + args.stride);
  float sums[kColumns];
  for (int i = 0; i < kColumns; ++i) {
    sums[i] = static_cast<float>(int64_t{highs.v[i]} * 256 + lows.v[i]);
  }
  StoreScaled(args, sums, row, c, cols, out);
}

}  // namespace

void QuantizeChannels(cudaStream_t stream, const float* weights, int64_t count, int64_t cols,
                      int8_t* codes, int64_t stride, float* scales) {
  const Tensor rows = {const_cast<float*>(weights), DType::kFloat32, count, cols, cols};
  Launch({"quantize_channels", dim3(static_cast<unsigned>(count)), dim3(kScaleThreads), 0, stream},
         QuantizeChannelsKernel, RowsOf<float>(rows), cols, codes, stride, scales);
}

void SplitRows(cudaStream_t stream, Tensor x, int8_t* planes, int64_t stride, float* scales) {
  ForDType(x.dtype, [&](auto type) {
    using T = decltype(type);
    Launch({"split_rows", dim3(static_cast<unsigned>(x.rows)), dim3(kScaleThreads), 0, stream},
           SplitRowsKernel<T>, RowsOf<T>(x), x.cols, planes, stride, scales);
  });
}

void CombinePlanes(cudaStream_t stream, const ScaledSums<int32_t>& args, Tensor out) {
  ForDType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(ElementShape("combine_planes", out.rows, out.cols, stream), CombinePlanesKernel<T>, args,
           out.cols, RowsOf<T>(out));
  });
}

}  // namespace t2r::cuda

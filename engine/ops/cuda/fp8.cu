// Rows of weights and activations in e4m3, and the products' sums with their scales.
#include "engine/ops/cuda/fp8_kernels.h"
#include "engine/ops/cuda/row_scale.h"

namespace t2r::cuda {
namespace {

constexpr float kMaxFloat8 = 448.0F;

// To the nearest of e4m3, ties to even, of a magnitude that rounds to 448 at most. Any code will do
// for NaN: its row's scale is NaN.
__device__ __forceinline__ uint8_t Float8Of(float value) {
  const float magnitude = fabsf(value);
  const unsigned sign = (__float_as_uint(value) >> 24) & 0x80U;
  // Below 2⁻⁶, the smallest normal number, steps are of 2⁻⁹; the eighth of them is that number.
  if (magnitude < 0x1p-6F)
    return static_cast<uint8_t>(sign | static_cast<unsigned>(rintf(magnitude * 0x1p9F)));
  const unsigned bits = __float_as_uint(magnitude);
  const unsigned rounded = (bits + 0x7ffffU + ((bits >> 20) & 1U)) >> 20;  // a carry is right
  return static_cast<uint8_t>(sign | (rounded - ((127U - 7U) << 3)));
}

// A block a row. Bytes a row: cols elements in, the second reading from cache, and stride out.
// Operations: about 12 a column.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads)
    EncodeRowsKernel(RowsOf<T> x, int64_t cols, uint8_t* codes, int64_t stride, float* scales) {
  T2R_SHARED(float, parts, kScaleWarps);
  const int64_t row = blockIdx.x;
  const Step step = StepOf(LargestOf(x, row, cols, parts), kMaxFloat8);
  if (threadIdx.x == 0) scales[row] = step.scale;
  float v[kColumns];
  for (int64_t c = threadIdx.x * kColumns; c < stride; c += kScaleThreads * kColumns) {
    x.Load(row, c, cols, v);
    Pack<uint8_t, kColumns> pack;
    for (int i = 0; i < kColumns; ++i) pack.v[i] = Float8Of(v[i] * step.inverse);
    *reinterpret_cast<Pack<uint8_t, kColumns>*>(codes + row * stride + c) = pack;
  }
}

// Bytes a row: 4 a column of sums, the out's element, twice where it accumulates; scales and bias
// from cache. Operations: about 4 a column.
template <typename Out>
__global__ void __launch_bounds__(kElementThreads)
    ScaleSumsKernel(ScaledSums<float> args, int64_t cols, RowsOf<Out> out) {
  const int64_t c = ElementColumn();
  if (c >= cols) return;
  const int64_t row = blockIdx.x;
  const auto sums =
      *reinterpret_cast<const Pack<float, kColumns>*>(args.sums + row * args.stride + c);
  StoreScaled(args, sums.v, row, c, cols, out);
}

}  // namespace

void EncodeRows(cudaStream_t stream, Tensor x, uint8_t* codes, int64_t stride, float* scales) {
  ForDType(x.dtype, [&](auto type) {
    using T = decltype(type);
    Launch({"encode_rows", dim3(static_cast<unsigned>(x.rows)), dim3(kScaleThreads), 0, stream},
           EncodeRowsKernel<T>, RowsOf<T>(x), x.cols, codes, stride, scales);
  });
}

void ScaleSums(cudaStream_t stream, const ScaledSums<float>& args, Tensor out) {
  ForDType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(ElementShape("scale_sums", out.rows, out.cols, stream), ScaleSumsKernel<T>, args,
           out.cols, RowsOf<T>(out));
  });
}

}  // namespace t2r::cuda

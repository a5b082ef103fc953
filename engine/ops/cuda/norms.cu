// RMSNorm and LayerNorm: a block a row (or a row's head), sums in an order that the number of
// columns alone decides.
#include "engine/ops/cuda/row_access.h"
#include "engine/ops/cuda/row_kernels.h"

namespace t2r::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

// The sum over the block, the same bits in every thread. `parts` is shared memory of its own.
__device__ __forceinline__ float BlockSum(float value, float (&parts)[kWarps]) {
  value = WarpSum(value);
  if (threadIdx.x % kWarpSize == 0) parts[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float sum = 0.0F;
  for (int w = 0; w < kWarps; ++w) sum += parts[w];
  return sum;
}

// Block (r, p) takes the p-th `cols` columns of row r. Bytes: cols · (in + out) from memory, the
// second reading from cache, and the weights from cache. Operations: about 4 a column.
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads)
    RmsNormKernel(RowsOf<In> x, const float* weight, float eps, int64_t cols, RowsOf<Out> out) {
  T2R_SHARED(float, parts, kWarps);
  const int64_t row = blockIdx.x;
  x.Skip(blockIdx.y * cols);
  out.Skip(blockIdx.y * cols);
  float squares = 0.0F;
  float v[kColumns];
  for (int64_t c = threadIdx.x * kColumns; c < cols; c += kThreads * kColumns) {
    x.Load(row, c, cols, v);
    for (int i = 0; i < kColumns; ++i) squares = fmaf(v[i], v[i], squares);
  }
  const float mean = BlockSum(squares, parts) / static_cast<float>(cols);
  const float scale = 1.0F / sqrtf(mean + eps);
  for (int64_t c = threadIdx.x * kColumns; c < cols; c += kThreads * kColumns) {
    x.Load(row, c, cols, v);
    for (int i = 0; i < kColumns; ++i) {
      if (c + i < cols) v[i] = v[i] * scale * weight[c + i];
    }
    out.Store(row, c, cols, v);
  }
}

// As RmsNormKernel with one more reading from cache: the variance is the mean of (x − mean)².
// Operations: about 8 a column.
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads)
    LayerNormKernel(RowsOf<In> x, const float* weight, const float* bias, float eps, int64_t cols,
                    RowsOf<Out> out) {
  T2R_SHARED(float, sums, kWarps);
  T2R_SHARED(float, squares, kWarps);
  const int64_t row = blockIdx.x;
  float v[kColumns];
  float sum = 0.0F;
  for (int64_t c = threadIdx.x * kColumns; c < cols; c += kThreads * kColumns) {
    x.Load(row, c, cols, v);
    for (int i = 0; i < kColumns; ++i) sum += v[i];
  }
  const float mean = BlockSum(sum, sums) / static_cast<float>(cols);
  float square = 0.0F;
  for (int64_t c = threadIdx.x * kColumns; c < cols; c += kThreads * kColumns) {
    x.Load(row, c, cols, v);
    for (int i = 0; i < kColumns; ++i) {
      const float centred = c + i < cols ? v[i] - mean : 0.0F;
      square = fmaf(centred, centred, square);
    }
  }
  const float variance = BlockSum(square, squares) / static_cast<float>(cols);
  const float scale = 1.0F / sqrtf(variance + eps);
  for (int64_t c = threadIdx.x * kColumns; c < cols; c += kThreads * kColumns) {
    x.Load(row, c, cols, v);
    for (int i = 0; i < kColumns; ++i) {
      if (c + i < cols) v[i] = (v[i] - mean) * scale * weight[c + i] + bias[c + i];
    }
    out.Store(row, c, cols, v);
  }
}

LaunchShape RowShape(const char* name, int64_t rows, cudaStream_t stream) {
  return {name, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream};
}

}  // namespace

void RmsNorm(cudaStream_t stream, Tensor x, const float* weight, float eps, Tensor out) {
  ForDTypes(x, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    Launch(RowShape("rms_norm", x.rows, stream), RmsNormKernel<In, Out>, RowsOf<In>(x), weight, eps,
           x.cols, RowsOf<Out>(out));
  });
}

void RmsNormHeads(cudaStream_t stream, Tensor x, int heads, const float* weight, float eps) {
  ForDType(x.dtype, [&](auto type) {
    using T = decltype(type);
    LaunchShape shape = RowShape("rms_norm_heads", x.rows, stream);
    shape.grid.y = static_cast<unsigned>(heads);
    Launch(shape, RmsNormKernel<T, T>, RowsOf<T>(x), weight, eps, x.cols / heads, RowsOf<T>(x));
  });
}

void LayerNorm(cudaStream_t stream, Tensor x, const float* weight, const float* bias, float eps,
               Tensor out) {
  ForDTypes(x, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    Launch(RowShape("layer_norm", x.rows, stream), LayerNormKernel<In, Out>, RowsOf<In>(x), weight,
           bias, eps, x.cols, RowsOf<Out>(out));
  });
}

}  // namespace t2r::cuda

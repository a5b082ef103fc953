// Ops without sums: activations, copies of rows, conversions. A thread takes four columns.
#include "engine/ops/cuda/row_access.h"
#include "engine/ops/cuda/row_kernels.h"

namespace t2r::cuda {
namespace {

// x / (1 + e^−x); for x < −88 the quotient is by infinity, −0.
__device__ __forceinline__ float Silu(float x) { return x / (1.0F + expf(-x)); }

__device__ __forceinline__ float Apply(ActivationKind kind, float x) {
  switch (kind) {
    case ActivationKind::kGeluTanh: {
      const float inner = 0.797884561F * (x + 0.044715F * x * x * x);
      // x (1 + tanh(u)) / 2 = x / (1 + e^−2u): no cancellation where tanh is near −1.
      return x / (1.0F + expf(-2.0F * inner));
    }
    case ActivationKind::kGelu:
      return 0.5F * x * erfcf(-0.707106781F * x);
    case ActivationKind::kRelu:
      return x > 0.0F || isnan(x) ? x : 0.0F;
    case ActivationKind::kSilu:
      return Silu(x);
  }
  return x;
}

// Bytes a row: cols · (2 in + out). Operations: about 12 a column, most of them the exponential's.
template <typename In, typename Out>
__global__ void __launch_bounds__(kElementThreads)
    SwiGluKernel(RowsOf<In> gate, RowsOf<In> up, int64_t cols, RowsOf<Out> out) {
  const int64_t c = ElementColumn();
  if (c >= cols) return;
  float g[kColumns];
  float u[kColumns];
  gate.Load(blockIdx.x, c, cols, g);
  up.Load(blockIdx.x, c, cols, u);
  for (int i = 0; i < kColumns; ++i) g[i] = Silu(g[i]) * u[i];
  out.Store(blockIdx.x, c, cols, g);
}

// Bytes a row: cols · 2 elements. Operations: up to about 25 a column.
template <typename T, ActivationKind kKind>
__global__ void __launch_bounds__(kElementThreads) ActivateKernel(RowsOf<T> x, int64_t cols) {
  const int64_t c = ElementColumn();
  if (c >= cols) return;
  float v[kColumns];
  x.Load(blockIdx.x, c, cols, v);
  for (int i = 0; i < kColumns; ++i) v[i] = Apply(kKind, v[i]);
  x.Store(blockIdx.x, c, cols, v);
}

// Bytes a row: cols · (in + out), and the bias from cache. Operations: one a column.
template <typename In, typename Out>
__global__ void __launch_bounds__(kElementThreads)
    CopyRowsKernel(RowsOf<In> x, const int32_t* rows, const float* bias, int64_t cols,
                   RowsOf<Out> out) {
  const int64_t c = ElementColumn();
  if (c >= cols) return;
  const int64_t from = rows == nullptr ? int64_t{blockIdx.x} : rows[blockIdx.x];
  float v[kColumns];
  x.Load(from, c, cols, v);
  if (bias != nullptr) {
    for (int i = 0; i < kColumns; ++i) {
      if (c + i < cols) v[i] += bias[c + i];
    }
  }
  out.Store(blockIdx.x, c, cols, v);
}

constexpr int kConvertThreads = 256;

// An element a thread, in the order of the source. Bytes: each element in and out. At load time.
template <typename From, typename To>
__global__ void __launch_bounds__(kConvertThreads)
    ConvertKernel(const From* from, int64_t rows, int64_t cols, bool transposed, To* to,
                  int64_t to_stride) {
  const int64_t index = int64_t{blockIdx.x} * kConvertThreads + threadIdx.x;
  if (index >= rows * cols) return;
  const int64_t row = transposed ? index % rows : index / cols;
  const int64_t col = transposed ? index / rows : index % cols;
  to[row * to_stride + col] = FromFloat<To>(ToFloat(from[index]));
}

template <typename From, typename To>
void Convert(cudaStream_t stream, const ConvertArgs& args) {
  const int64_t blocks = (args.rows * args.cols + kConvertThreads - 1) / kConvertThreads;
  Launch({"convert", dim3(static_cast<unsigned>(blocks)), dim3(kConvertThreads), 0, stream},
         ConvertKernel<From, To>, static_cast<const From*>(args.from), args.rows, args.cols,
         args.transposed, static_cast<To*>(args.to), args.to_stride);
}

}  // namespace

void SwiGlu(cudaStream_t stream, Tensor gate_up, Tensor out) {
  ForDTypes(gate_up, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    Launch(ElementShape("swiglu", out.rows, out.cols, stream), SwiGluKernel<In, Out>,
           RowsOf<In>(gate_up), RowsOf<In>(gate_up.Columns(out.cols, out.cols)), out.cols,
           RowsOf<Out>(out));
  });
}

void Activate(cudaStream_t stream, ActivationKind kind, Tensor x) {
  ForDType(x.dtype, [&](auto type) {
    using T = decltype(type);
    const auto launch = [&](void (*kernel)(RowsOf<T>, int64_t)) {
      Launch(ElementShape("activate", x.rows, x.cols, stream), kernel, RowsOf<T>(x), x.cols);
    };
    switch (kind) {
      case ActivationKind::kGeluTanh:
        return launch(ActivateKernel<T, ActivationKind::kGeluTanh>);
      case ActivationKind::kGelu:
        return launch(ActivateKernel<T, ActivationKind::kGelu>);
      case ActivationKind::kRelu:
        return launch(ActivateKernel<T, ActivationKind::kRelu>);
      case ActivationKind::kSilu:
        return launch(ActivateKernel<T, ActivationKind::kSilu>);
    }
  });
}

void CopyRows(cudaStream_t stream, Tensor x, const int32_t* rows, const float* bias, Tensor out) {
  ForDTypes(x, out, [&](auto in_type, auto out_type) {
    using In = decltype(in_type);
    using Out = decltype(out_type);
    Launch(ElementShape("copy_rows", out.rows, out.cols, stream), CopyRowsKernel<In, Out>,
           RowsOf<In>(x), rows, bias, out.cols, RowsOf<Out>(out));
  });
}

void ConvertMatrix(cudaStream_t stream, const ConvertArgs& args) {
  ForDType(args.to_dtype, [&](auto to_type) {
    using To = decltype(to_type);
    switch (args.from_dtype) {
      case DType::kFloat32:
        return Convert<float, To>(stream, args);
      case DType::kBFloat16:
        return Convert<BFloat16, To>(stream, args);
      case DType::kFloat16:
        return Convert<Float16, To>(stream, args);
      case DType::kInt8:
      case DType::kInt4:
      case DType::kFloat8:
        break;  // MatrixLoader refuses them
    }
  });
}

}  // namespace t2r::cuda

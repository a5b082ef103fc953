// The CUDA backend's ops: what they launch.
#include <cassert>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cuda_backend.h"
#include "engine/ops/cuda/fp8_kernels.h"
#include "engine/ops/cuda/int8_kernels.h"
#include "engine/ops/cuda/row_kernels.h"

namespace t2r::cuda {
namespace {

TableView ViewOf(const Matrix* table) {
  if (table == nullptr) return {};
  const auto& matrix = static_cast<const DeviceMatrix&>(*table);
  return {matrix.data(), matrix.dtype(), matrix.stride(), matrix.scales()};
}

// Scratch memory is handed out in pieces that begin at multiples of 256 bytes.
size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// A tensor of `like`'s shape over scratch memory.
Tensor Over(void* data, DType dtype, const Tensor& like) {
  return {data, dtype, like.rows, like.cols, like.cols};
}

}  // namespace

void CudaBackend::Embed(const Batch&, const Matrix& table, const Matrix* positions, float scale,
                        Tensor out) {
  assert(out.cols == table.cols() && out.rows == batch_.rows);
  cuda::Embed(stream_.get(), batch_.tokens, ViewOf(&table), batch_.positions, ViewOf(positions),
              scale, out);
}

void CudaBackend::RmsNorm(Tensor x, const float* weight, float eps, Tensor out) {
  cuda::RmsNorm(stream_.get(), x, weight, eps, out);
}

void CudaBackend::RmsNormHeads(Tensor x, int heads, const float* weight, float eps) {
  cuda::RmsNormHeads(stream_.get(), x, heads, weight, eps);
}

void CudaBackend::LayerNorm(Tensor x, const float* weight, const float* bias, float eps,
                            Tensor out) {
  cuda::LayerNorm(stream_.get(), x, weight, bias, eps, out);
}

// Bytes: the matrix once, x and out; 2 · rows · n · k operations. Beside a float32 matrix bfloat16
// activations are widened first, which is exact. Where cuBLASLt does not write what is wanted
// (bfloat16 from float32 factors, or with a bias), the product goes through float32 scratch.
void CudaBackend::MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode,
                         Tensor out) {
  assert(x.cols == w.cols() && out.cols == w.rows() && x.rows == out.rows);
  if (x.rows == 0) return;
  const bool accumulate = mode == MatMulMode::kAccumulate;
  const DType dtype = w.dtype();
  if (dtype == DType::kInt8) {
    return MatMulInt8(x, static_cast<const DeviceMatrix&>(w), bias, accumulate, out);
  }
  if (dtype == DType::kFloat8) {
    return MatMulFloat8(x, static_cast<const DeviceMatrix&>(w), bias, accumulate, out);
  }
  assert(x.dtype == dtype || dtype == DType::kFloat32);
  const bool cast_x = x.dtype != dtype;
  const bool cast_out =
      out.dtype == DType::kBFloat16 && (dtype == DType::kFloat32 || bias != nullptr);
  assert(!(cast_out && accumulate));

  const size_t x_bytes = cast_x ? Aligned(static_cast<size_t>(x.rows * x.cols) * SizeOf(dtype)) : 0;
  const size_t out_bytes = cast_out ? static_cast<size_t>(out.rows * out.cols) * sizeof(float) : 0;
  auto* scratch =
      static_cast<std::byte*>(x_bytes + out_bytes > 0 ? Reserve(x_bytes + out_bytes) : nullptr);
  if (cast_x) {
    const Tensor cast = Over(scratch, dtype, x);
    CopyRows(stream_.get(), x, nullptr, nullptr, cast);
    x = cast;
  }
  const Tensor product = cast_out ? Over(scratch + x_bytes, DType::kFloat32, out) : out;
  GemmArgs gemm;
  gemm.rows = x.rows;
  gemm.n = w.rows();
  gemm.k = w.cols();
  gemm.dtype = dtype;
  gemm.x = x.data;
  gemm.x_stride = x.stride;
  gemm.w = static_cast<const DeviceMatrix&>(w).data();
  gemm.out_dtype = product.dtype;
  gemm.out = product.data;
  gemm.out_stride = product.stride;
  gemm.accumulate = accumulate;
  gemm.bias = cast_out ? nullptr : bias;
  gemm_.Run(gemm);
  if (cast_out) CopyRows(stream_.get(), product, nullptr, bias, out);
}

void CudaBackend::MultiplyCodes(const void* x, int64_t rows, const DeviceMatrix& w, void* sums) {
  GemmArgs gemm;
  gemm.rows = rows;
  gemm.n = w.stored_rows();
  gemm.k = w.stride();
  gemm.dtype = w.dtype();
  gemm.x = x;
  gemm.x_stride = w.stride();
  gemm.w = w.data();
  gemm.out = sums;
  gemm.out_stride = w.stored_rows();
  gemm_.Run(gemm);
}

// Bytes: the matrix once, a byte a weight; x, its two planes out and in again, 8 · rows · n of sums
// out and in, and out. 4 · rows · n · k operations on integers, which tensor cores do at twice
// bfloat16's rate.
void CudaBackend::MatMulInt8(Tensor x, const DeviceMatrix& w, const float* bias, bool accumulate,
                             Tensor out) {
  const int64_t planes = 2 * x.rows;
  const size_t scale_bytes = Aligned(static_cast<size_t>(x.rows) * sizeof(float));
  const size_t plane_bytes = Aligned(static_cast<size_t>(planes * w.stride()));
  const size_t sum_bytes = static_cast<size_t>(planes * w.stored_rows()) * sizeof(int32_t);
  auto* const scratch = static_cast<std::byte*>(Reserve(scale_bytes + plane_bytes + sum_bytes));
  auto* const scales = reinterpret_cast<float*>(scratch);
  auto* const halves = reinterpret_cast<int8_t*>(scratch + scale_bytes);
  auto* const sums = reinterpret_cast<int32_t*>(scratch + scale_bytes + plane_bytes);
  SplitRows(stream_.get(), x, halves, w.stride(), scales);
  MultiplyCodes(halves, planes, w, sums);
  CombinePlanes(stream_.get(), {sums, w.stored_rows(), scales, w.scales(), bias, accumulate}, out);
}

// Bytes: the matrix once, a byte a weight; x, its codes out and in again, 4 · rows · n of sums out
// and in, and out. 2 · rows · n · k operations, which tensor cores do at twice bfloat16's rate.
void CudaBackend::MatMulFloat8(Tensor x, const DeviceMatrix& w, const float* bias, bool accumulate,
                               Tensor out) {
  const size_t scale_bytes = Aligned(static_cast<size_t>(x.rows) * sizeof(float));
  const size_t code_bytes = Aligned(static_cast<size_t>(x.rows * w.stride()));
  const size_t sum_bytes = static_cast<size_t>(x.rows * w.stored_rows()) * sizeof(float);
  auto* const scratch = static_cast<std::byte*>(Reserve(scale_bytes + code_bytes + sum_bytes));
  auto* const scales = reinterpret_cast<float*>(scratch);
  auto* const codes = reinterpret_cast<uint8_t*>(scratch + scale_bytes);
  auto* const sums = reinterpret_cast<float*>(scratch + scale_bytes + code_bytes);
  EncodeRows(stream_.get(), x, codes, w.stride(), scales);
  MultiplyCodes(codes, x.rows, w, sums);
  ScaleSums(stream_.get(), {sums, w.stored_rows(), scales, w.scales(), bias, accumulate}, out);
}

void CudaBackend::RopeTable(const Batch&, std::span<const double> inverse_frequencies,
                            double factor, Tensor cos_sin) {
  std::vector<double> key(inverse_frequencies.begin(), inverse_frequencies.end());
  auto known = frequencies_.find(key);
  if (known == frequencies_.end()) {
    DeviceArray<double> device(key.size());
    CopyToDevice(device.data(), key.data(), device.bytes());
    known = frequencies_.emplace(std::move(key), std::move(device)).first;
  }
  cuda::RopeTable(stream_.get(), batch_.positions, known->second.data(), factor, cos_sin);
}

void CudaBackend::Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) {
  assert(cos_sin.cols % 2 == 0 && cos_sin.cols <= head_dim);
  cuda::Rope(stream_.get(), cos_sin, heads, head_dim, x);
}

void CudaBackend::LinearAttention(const Batch&, const LinearAttentionArgs& args) {
  if (args.log_decay != nullptr) {
    throw DeviceError("linear attention with a decay: use the CPU backend");
  }
  cuda::LinearAttention(Context(), args);
}

void CudaBackend::WindowedAttention(const Batch&, const WindowedAttentionArgs& args) {
  cuda::WindowedAttention(Context(), args);
}

void CudaBackend::FullAttention(const Batch&, const FullAttentionArgs& args) {
  cuda::FullAttention(Context(), args);
}

void CudaBackend::EncoderAttention(const Batch&, const EncoderAttentionArgs& args) {
  cuda::EncoderAttention(Context(), args);
}

void CudaBackend::SwiGlu(Tensor gate_up, Tensor out) {
  assert(gate_up.cols == 2 * out.cols);
  cuda::SwiGlu(stream_.get(), gate_up, out);
}

void CudaBackend::Activate(ActivationKind kind, Tensor x) {
  cuda::Activate(stream_.get(), kind, x);
}

void CudaBackend::GatherLogitRows(const Batch&, Tensor x, Tensor out) {
  assert(out.rows == batch_.logit_row_count);
  CopyRows(stream_.get(), x, batch_.logit_rows, nullptr, out);
}

void CudaBackend::Sample(Tensor logits, std::span<const SampleRequest> requests) {
  sampler_.Sample(logits, requests);
}

void CudaBackend::FetchSamples(std::span<SampleResult> results) { sampler_.Fetch(results); }

}  // namespace t2r::cuda

// Ops that work row by row, on the device. What they compute is said in engine/ops/backend.h;
// tensors are float32 or bfloat16 as their dtype says, arithmetic is float32. Each launches one
// kernel on `stream`.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/ops/activation.h"
#include "engine/ops/tensor.h"

namespace t2r::cuda {

void RmsNorm(cudaStream_t stream, Tensor x, const float* weight, float eps, Tensor out);
void RmsNormHeads(cudaStream_t stream, Tensor x, int heads, const float* weight, float eps);
void LayerNorm(cudaStream_t stream, Tensor x, const float* weight, const float* bias, float eps,
               Tensor out);

void SwiGlu(cudaStream_t stream, Tensor gate_up, Tensor out);
void Activate(cudaStream_t stream, ActivationKind kind, Tensor x);
// out[i] = x[rows[i]] + bias, rounded to out's dtype; null rows: x[i]; null bias: nothing added. x
// and out may be the same tensor where rows is null.
void CopyRows(cudaStream_t stream, Tensor x, const int32_t* rows, const float* bias, Tensor out);

// Tables of any dtype, [entries, cols] at rows of `stride` elements; int8 with a scale a row.
// `positions` null: no learned positions.
struct TableView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t stride = 0;
  const float* scales = nullptr;
};
void Embed(cudaStream_t stream, const int32_t* tokens, TableView table,
           const int64_t* token_positions, TableView positions, float scale, Tensor out);
// frequencies is device memory, [cos_sin.cols / 2].
void RopeTable(cudaStream_t stream, const int64_t* positions, const double* frequencies,
               double factor, Tensor cos_sin);
void Rope(cudaStream_t stream, Tensor cos_sin, int heads, int head_dim, Tensor x);

// Converts `count` elements from `from` to `to` (float32 or bfloat16). Elements of the source lie
// [rows, cols], or [cols, rows] where it is transposed; those of `to` in rows of `to_stride`.
struct ConvertArgs {
  const void* from = nullptr;
  DType from_dtype = DType::kFloat32;
  bool transposed = false;
  int64_t rows = 0;
  int64_t cols = 0;
  void* to = nullptr;
  DType to_dtype = DType::kFloat32;
  int64_t to_stride = 0;
};
void ConvertMatrix(cudaStream_t stream, const ConvertArgs& args);

}  // namespace t2r::cuda

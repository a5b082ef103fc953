// The one matrix product of the backend. gemm_cublas.cc implements it with cuBLASLt;
// tests/cuda_emulator/gemm_cpu.cc stands in for it where there is no device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "engine/ops/dtype.h"

namespace t2r::cuda {

// cuBLASLt's tensor-core products of fp8 want multiples of 16; those of int8 want multiples of 4,
// and are fastest with 16.
inline constexpr int64_t kByteMultiple = 16;
// The first architecture, sm_89, whose tensor cores multiply fp8.
inline constexpr int kFloat8Architecture = 89;
// Terms of 128 · 127 at most that an int32 can sum.
inline constexpr int64_t kMaxInt8Terms = int64_t{1} << 17;

// out[t, n] (+)= Σ_k x[t, k] · w[n, k] + bias[n], float32 accumulation. Device memory; a row of x
// and of w lies k contiguous elements long, rows at the strides (in elements).
struct GemmArgs {
  int64_t rows = 0;  // T
  int64_t n = 0;
  int64_t k = 0;
  // Of x and w: float32, bfloat16, int8 or fp8. With int8 out is int32 and exact up to
  // kMaxInt8Terms terms; with fp8 it is float32. Both are without bias or accumulation, and k, n,
  // strides and addresses must be multiples of kByteMultiple.
  DType dtype = DType::kFloat32;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* w = nullptr;            // [n, k] without gaps
  DType out_dtype = DType::kFloat32;  // bfloat16 only where dtype is
  void* out = nullptr;
  int64_t out_stride = 0;
  bool accumulate = false;
  const float* bias = nullptr;  // null: none; only with a float32 out
};

class Gemm {
 public:
  // Allocates its workspace. Products run on `stream`. batch_invariant: a row of out has the same
  // bits whatever the number of rows; else what is fastest for that number. Sums of int8 are exact,
  // so theirs are the same in any case. Throws DeviceError.
  Gemm(cudaStream_t stream, bool batch_invariant);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // May be recorded into a graph once it has run for the same n, k, types, mode and rows.
  void Run(const GemmArgs& args);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace t2r::cuda

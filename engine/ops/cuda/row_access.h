// How kernels that work row by row read and write rows of float32 or bfloat16.
//
// A thread always takes four neighbouring columns, whether the rows lie so that they can be moved
// at once or not: so what a row gives does not depend on where it lies.
#pragma once

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/tensor.h"

namespace t2r::cuda {

inline constexpr int kColumns = 4;

// A tensor's rows as a kernel takes them.
template <typename T>
struct RowsOf {
  T* data;
  int64_t stride;
  bool aligned;  // every row's column 0, 4, 8 … can be moved as a Pack

  explicit RowsOf(const Tensor& tensor)
      : data(static_cast<T*>(tensor.data)),
        stride(tensor.stride),
        aligned(reinterpret_cast<uintptr_t>(data) % (kColumns * sizeof(T)) == 0 &&
                stride % kColumns == 0) {}

  // Leaves out the first columns of every row.
  __device__ void Skip(int64_t columns) {
    data += columns;
    aligned = aligned && columns % kColumns == 0;
  }

  // Columns [c, c + 4) of a row of `cols`, as float32; zero beyond the row's end.
  __device__ void Load(int64_t row, int64_t c, int64_t cols, float (&values)[kColumns]) const {
    const T* from = data + row * stride + c;
    if (aligned && c + kColumns <= cols) {
      const auto pack = *reinterpret_cast<const Pack<T, kColumns>*>(from);
      for (int i = 0; i < kColumns; ++i) values[i] = ToFloat(pack.v[i]);
      return;
    }
    for (int i = 0; i < kColumns; ++i) values[i] = c + i < cols ? ToFloat(from[i]) : 0.0F;
  }

  __device__ void Store(int64_t row, int64_t c, int64_t cols,
                        const float (&values)[kColumns]) const {
    T* to = data + row * stride + c;
    if (aligned && c + kColumns <= cols) {
      Pack<T, kColumns> pack;
      for (int i = 0; i < kColumns; ++i) pack.v[i] = FromFloat<T>(values[i]);
      *reinterpret_cast<Pack<T, kColumns>*>(to) = pack;
      return;
    }
    for (int i = 0; i < kColumns; ++i) {
      if (c + i < cols) to[i] = FromFloat<T>(values[i]);
    }
  }
};

// fn(T{}) for the tensor's element type, float or BFloat16.
template <typename Fn>
void ForDType(DType dtype, const Fn& fn) {
  if (dtype == DType::kBFloat16) return fn(BFloat16{});
  fn(float{});
}

// fn(In{}, Out{}) for the element types of two tensors.
template <typename Fn>
void ForDTypes(const Tensor& in, const Tensor& out, const Fn& fn) {
  ForDType(in.dtype, [&](auto from) { ForDType(out.dtype, [&](auto to) { fn(from, to); }); });
}

// A block of 128 threads for every row and 512 columns of it.
inline constexpr int kElementThreads = 128;
inline LaunchShape ElementShape(const char* name, int64_t rows, int64_t cols, cudaStream_t stream) {
  constexpr int64_t kPerBlock = kElementThreads * kColumns;
  const auto blocks = static_cast<unsigned>((cols + kPerBlock - 1) / kPerBlock);
  return {name, dim3(static_cast<unsigned>(rows), blocks), dim3(kElementThreads), 0, stream};
}
// The first of the four columns that the calling thread takes in such a launch.
__device__ __forceinline__ int64_t ElementColumn() {
  return (int64_t{blockIdx.y} * kElementThreads + threadIdx.x) * kColumns;
}

}  // namespace t2r::cuda

// Weight matrices as the backend keeps them, and where they come from.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "engine/ops/dtype.h"

namespace t2r {

// A weight in host memory, as a file stores it. Not owned.
struct HostMatrix {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;         // output features N
  int64_t cols = 0;         // input features K
  bool transposed = false;  // stored as [K, N] (GPT-2's Conv1D) instead of [N, K]
  // Of a quantised matrix, whose data are then its codes as docs/model-format.md lays them out:
  // bfloat16 scales [N, groups], with int4 [N, groups, 2], scale and minimum. Never transposed.
  const uint16_t* scales = nullptr;
};

// A matrix [rows, cols] = [output features, input features] in the backend's own layout. Immutable.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType dtype) : rows_(rows), cols_(cols), dtype_(dtype) {}
  virtual ~Matrix() = default;
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  virtual size_t bytes() const = 0;

 private:
  int64_t rows_;
  int64_t cols_;
  DType dtype_;
};

enum class MatMulMode : uint8_t {
  kStore,       // out = x Wᵀ + bias
  kAccumulate,  // out += x Wᵀ + bias (the residual connection)
};

}  // namespace t2r

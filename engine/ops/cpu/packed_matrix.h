// Weights in the layout that the matrix kernels read, and lookup tables.
#pragma once

#include <cstring>
#include <span>

#include "engine/ops/cpu/memory.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/ops/matmul.h"
#include "engine/ops/tensor.h"

namespace t2r {

// See GemmTask for the layout of the panels.
class PackedMatrix : public Matrix {
 public:
  // Packs the stacked rows of `parts`, rounded to `dtype` (float32 or bfloat16; to nearest even).
  PackedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype, int panel_cols,
               ThreadPool& pool);

  size_t bytes() const override { return buffer_.bytes(); }
  const void* panels() const { return buffer_.data(); }
  int64_t panel_count() const { return panel_count_; }

 private:
  int64_t panel_count_;
  Buffer buffer_;
};

// A table whose rows are looked up: a copy, since who wrote its file may change that later.
class HostTable : public Matrix {
 public:
  explicit HostTable(const HostMatrix& table)
      : Matrix(table.rows, table.cols, table.dtype), buffer_(AllocateHost(HostTable::bytes())) {
    if (HostTable::bytes() > 0) std::memcpy(buffer_.data(), table.data, HostTable::bytes());
  }

  size_t bytes() const override { return static_cast<size_t>(rows() * cols()) * SizeOf(dtype()); }
  // out[i] = row[i], or += row[i], widened.
  void ReadRow(int64_t row, float* out) const;
  void AddRow(int64_t row, float* out) const;

 private:
  Buffer buffer_;
};

}  // namespace t2r

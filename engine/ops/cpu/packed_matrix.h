// Weights in the layout that the matrix kernels read, and lookup tables.
#pragma once

#include <cstring>
#include <span>

#include "engine/ops/cpu/memory.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/ops/matmul.h"
#include "engine/ops/tensor.h"

namespace t2r {

// A matrix whose rows can be looked up.
class LookupTable : public Matrix {
 public:
  using Matrix::Matrix;
  // out[i] = row[i], or += row[i], as float32.
  virtual void ReadRow(int64_t row, float* out) const = 0;
  virtual void AddRow(int64_t row, float* out) const = 0;
};

// How panels hold a matrix.
enum class PanelLayout : uint8_t {
  kFeatures,  // as GemmTask says
  kPairs,     // bfloat16 as Bf16GemmTask says
};

class PackedMatrix : public LookupTable {
 public:
  // Packs the stacked rows of `parts`, rounded to `dtype` (float32 or bfloat16; to nearest even).
  // Panels are filled up with zeros to a multiple of input_multiple input features; even with
  // pairs.
  PackedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype, PanelLayout layout,
               int panel_cols, int input_multiple, ThreadPool& pool);

  size_t bytes() const override { return buffer_.bytes(); }
  PanelLayout layout() const { return layout_; }
  const void* panels() const { return buffer_.data(); }
  int64_t panel_count() const { return (rows() + panel_cols_ - 1) / panel_cols_; }

  void ReadRow(int64_t row, float* out) const override;
  void AddRow(int64_t row, float* out) const override;

 private:
  // One output feature, `lane` of its panel, which starts zeroed; source[k · step] is feature k.
  template <typename T>
  void PackFeature(const T* source, int64_t step, int lane, void* panel) const;
  // fn(k, weight) for the input features of one output feature.
  template <typename Fn>
  void ForFeature(int64_t row, const Fn& fn) const;

  PanelLayout layout_;
  int panel_cols_;
  size_t panel_bytes_;
  Buffer buffer_;
};

// Looked up only: a copy, since who wrote its file may change that later.
class HostTable : public LookupTable {
 public:
  explicit HostTable(const HostMatrix& table)
      : LookupTable(table.rows, table.cols, table.dtype),
        buffer_(AllocateHost(HostTable::bytes())) {
    if (HostTable::bytes() > 0) std::memcpy(buffer_.data(), table.data, HostTable::bytes());
  }

  size_t bytes() const override { return static_cast<size_t>(rows() * cols()) * SizeOf(dtype()); }
  void ReadRow(int64_t row, float* out) const override;
  void AddRow(int64_t row, float* out) const override;

 private:
  Buffer buffer_;
};

}  // namespace t2r

// Weights in 8 and 4 bits, packed for the kernels of int_gemm/.
#pragma once

#include <span>

#include "engine/ops/cpu/packed_matrix.h"
#include "engine/ops/quantize.h"

namespace t2r {

// int_gemm/kernels.h says the layout. Also a table: its rows can be looked up, dequantised.
class QuantizedMatrix : public LookupTable {
 public:
  // Packs the stacked rows of `parts`, quantised as `dtype` (int8 or int4); parts that a file holds
  // quantised so already are taken as they are.
  QuantizedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype, ThreadPool& pool);

  size_t bytes() const override { return buffer_.bytes(); }
  const uint8_t* panels() const { return static_cast<const uint8_t*>(buffer_.data()); }
  int64_t panel_count() const;
  int64_t panel_bytes() const { return panel_bytes_; }

  void ReadRow(int64_t row, float* out) const override;
  void AddRow(int64_t row, float* out) const override;

 private:
  // One output feature, in its panel.
  void PackRow(const HostMatrix& part, int64_t row, int64_t to);
  void PutGroup(const QuantizedGroup& group, int64_t row, int64_t index);
  QuantizedGroup GetGroup(int64_t row, int64_t index) const;
  // From the buffer's begin to the codes of a group of the panel that holds a row.
  int64_t CodesOf(int64_t row, int64_t index) const;

  int64_t panel_bytes_;
  Buffer buffer_;
};

}  // namespace t2r

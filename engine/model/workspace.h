// Device memory for one activation of the largest batch, allocated once.
#pragma once

#include "engine/ops/backend.h"

namespace t2r {

class Activation {
 public:
  Activation() = default;
  Activation(Backend& backend, int64_t rows, int64_t cols, DType dtype)
      : buffer_(backend.Allocate(static_cast<size_t>(rows * cols) * SizeOf(dtype))),
        tensor_{buffer_.data(), dtype, rows, cols, cols} {}

  // The first `rows` rows.
  Tensor Rows(int64_t rows) const { return tensor_.Rows(rows); }
  // The first `rows` rows and `cols` columns, packed: rows lie `cols` elements apart.
  Tensor Packed(int64_t rows, int64_t cols) const {
    return {tensor_.data, tensor_.dtype, rows, cols, cols};
  }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

}  // namespace t2r

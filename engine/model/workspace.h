// Device memory for the activations of the largest step, allocated once.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r {

// One activation: rows of `cols` elements. Has memory once its Workspace is allocated.
class Activation {
 public:
  // The first `rows` rows.
  Tensor Rows(int64_t rows) const { return tensor_.Rows(rows); }
  // The first `rows` rows and `cols` columns, packed: rows lie `cols` elements apart.
  Tensor Packed(int64_t rows, int64_t cols) const {
    return {tensor_.data, tensor_.dtype, rows, cols, cols};
  }

 private:
  friend class Workspace;
  Buffer buffer_;
  Tensor tensor_;
};

// A forward pass' activations: declared when the model is built, so that their size is known before
// anything is allocated.
class Workspace {
 public:
  // Declares an activation with a row for each row of a step, or for each row whose logits are
  // wanted. It must stay where it is.
  void AddRows(Activation* activation, int64_t cols, DType dtype) {
    Add(activation, false, cols, dtype);
  }
  void AddLogitRows(Activation* activation, int64_t cols, DType dtype) {
    Add(activation, true, cols, dtype);
  }

  // What Allocate takes; every activation rounded up to 256 bytes.
  int64_t Bytes(int64_t rows, int64_t logit_rows) const;
  // Memory for steps of up to so many rows, so many of which have their logits wanted. Throws
  // DeviceError.
  void Allocate(Backend& backend, int64_t rows, int64_t logit_rows);

 private:
  struct Declared {
    Activation* activation = nullptr;
    bool per_logit_row = false;
    int64_t cols = 0;
    DType dtype = DType::kFloat32;

    int64_t Rows(int64_t rows, int64_t logit_rows) const {
      return per_logit_row ? logit_rows : rows;
    }
  };
  void Add(Activation* activation, bool per_logit_row, int64_t cols, DType dtype) {
    declared_.push_back({activation, per_logit_row, cols, dtype});
  }

  std::vector<Declared> declared_;
};

}  // namespace t2r

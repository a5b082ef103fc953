// Views of two-dimensional device memory, and owned device buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>

#include "engine/ops/dtype.h"

namespace t2r {

// A backend failed while it allocated or computed (out of memory, a lost device). The scheduler
// catches it: the engine is then unusable.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A row-major view [rows, cols] of device memory; rows lie `stride` elements apart (stride ≥ cols).
// Does not own. Activations have the backend's activation_dtype(), float32 on the CPU.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  // The same rows, columns [first, first + count).
  Tensor Columns(int64_t first, int64_t count) const {
    return {static_cast<std::byte*>(data) + first * static_cast<int64_t>(SizeOf(dtype)), dtype,
            rows, count, stride};
  }
  // The first `count` rows.
  Tensor Rows(int64_t count) const { return {data, dtype, count, cols, stride}; }
  float* f32() const { return static_cast<float*>(data); }
  float* f32_row(int64_t row) const { return static_cast<float*>(data) + row * stride; }
};

// Owned device memory; freed through the backend that made it, which must outlive it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, size_t bytes, std::function<void(void*)> deleter)
      : data_(data, std::move(deleter)), bytes_(bytes) {}

  void* data() const { return data_.get(); }
  float* f32() const { return static_cast<float*>(data_.get()); }
  size_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_;
  size_t bytes_ = 0;
};

}  // namespace t2r

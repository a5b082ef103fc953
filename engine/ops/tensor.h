// Views of two-dimensional device memory, and owned device buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "engine/ops/dtype.h"

namespace t2r {

// What failed in a backend, and with it what is still possible.
enum class DeviceErrorKind : uint8_t {
  kInvalidArgument,  // asked for what it does not have: an unknown backend, too wide a head
  kUnavailable,      // there is no such device here, or its module or driver is missing
  kOutOfMemory,      // the device goes on; what was asked for is not there
  kInternal,         // a fault of ours; the device goes on
  kLost,             // nothing can be computed any more
};

// A backend failed while it started, allocated or computed. A device that does not say more counts
// as lost.
class DeviceError : public std::runtime_error {
 public:
  explicit DeviceError(const std::string& what) : DeviceError(DeviceErrorKind::kLost, what) {}
  DeviceError(DeviceErrorKind kind, const std::string& what)
      : std::runtime_error(what), kind_(kind) {}
  DeviceErrorKind kind() const { return kind_; }

 private:
  DeviceErrorKind kind_;
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

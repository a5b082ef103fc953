// Owned arrays on the device and in page-locked host memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <span>

#include "engine/ops/cuda/error.h"

namespace t2r::cuda {

// Device memory, 256-byte aligned. Frees without throwing.
void* AllocateDevice(size_t bytes);
// Page-locked host memory: copies from and to it run beside the host.
void* AllocatePinned(size_t bytes);
void FreeDevice(void* data) noexcept;
void FreePinned(void* data) noexcept;

namespace internal {
struct DeviceDeleter {
  void operator()(void* data) const noexcept { FreeDevice(data); }
};
struct PinnedDeleter {
  void operator()(void* data) const noexcept { FreePinned(data); }
};
}  // namespace internal

// `count` elements of T, uninitialised. Throws DeviceError when the memory is not there.
template <typename T, typename Deleter, void* (*kAllocate)(size_t)>
class OwnedArray {
 public:
  OwnedArray() = default;
  explicit OwnedArray(size_t count)
      : data_(static_cast<T*>(kAllocate(count * sizeof(T)))), count_(count) {}

  T* data() const { return data_.get(); }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  std::span<T> span() const { return {data_.get(), count_}; }

 private:
  std::unique_ptr<T, Deleter> data_;
  size_t count_ = 0;
};

template <typename T>
using DeviceArray = OwnedArray<T, internal::DeviceDeleter, AllocateDevice>;
template <typename T>
using PinnedArray = OwnedArray<T, internal::PinnedDeleter, AllocatePinned>;

}  // namespace t2r::cuda

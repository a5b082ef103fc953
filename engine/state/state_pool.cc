#include "engine/state/state_pool.h"

#include <cassert>
#include <string>

namespace t2r {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

int64_t StateShape::bytes() const {
  int64_t sum = 0;
  for (const LayerState& layer : layers) {
    if (__builtin_add_overflow(sum, layer_bytes(layer), &sum)) return INT64_MAX;
  }
  return sum;
}

int64_t StatePool::SlotBytes(const StateShape& shape) {
  const int64_t bytes = shape.bytes();
  if (bytes > INT64_MAX - kAlignment) return INT64_MAX;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

StatePool::StatePool(Backend& backend, const StateShape& shape, int slots, int kept)
    : backend_(backend), shape_(shape), in_use_(slots, false) {
  const int64_t slot_bytes = SlotBytes(shape);
  int64_t at = 0;
  for (const LayerState& layer : shape.layers) {
    layer_at_.push_back(at / 4);
    sums_at_.push_back((at + shape.window_bytes(layer)) / 4);
    at += shape.layer_bytes(layer);
  }
  stride_ = slot_bytes / 4;
  int64_t bytes = 0;
  if (slot_bytes == INT64_MAX ||
      __builtin_mul_overflow(slot_bytes, int64_t{slots} + kept, &bytes)) {
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      "the states of " + std::to_string(slots) + " sessions of " +
                          std::to_string(shape.bytes()) + " bytes do not fit any memory");
  }
  buffer_ = backend.Allocate(static_cast<size_t>(bytes));
  for (int slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

int StatePool::Acquire() {
  if (free_.empty()) return -1;
  const int slot = free_.back();
  free_.pop_back();
  in_use_[slot] = true;
  return slot;
}

void StatePool::Release(int slot) {
  assert(in_use_[slot]);
  if (stride_ > 0) {
    backend_.Zero(buffer_.f32() + slot * stride_, static_cast<size_t>(stride_) * 4);
  }
  in_use_[slot] = false;
  free_.push_back(slot);
}

void StatePool::Copy(int from, int to) {
  assert((from >= slots() || in_use_[from]) && (to >= slots() || in_use_[to]) && from != to);
  if (stride_ == 0) return;
  backend_.CopyOnDevice(buffer_.f32() + to * stride_, buffer_.f32() + from * stride_,
                        static_cast<size_t>(stride_) * 4);
}

void StatePool::Read(int slot, std::byte* host) const {
  assert(in_use_[slot]);
  if (stride_ == 0) return;
  backend_.CopyToHost(host, buffer_.f32() + slot * stride_, static_cast<size_t>(shape_.bytes()));
}

void StatePool::Write(int slot, const std::byte* host) {
  assert(in_use_[slot]);
  if (stride_ == 0) return;
  backend_.CopyToDevice(buffer_.f32() + slot * stride_, host, static_cast<size_t>(shape_.bytes()));
}

}  // namespace t2r

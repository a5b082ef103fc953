// The recurrent states of all sessions: fixed-size slots in one device buffer.
//
// A slot holds, for each linear layer in order, S [G, k, d] then z [G, k], float32, contiguous: its
// size is known at start and never grows. Padded to 64 bytes. Owned and called by the engine
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r {

struct StateShape {
  int layers = 0;    // linear layers
  int groups = 0;    // G
  int features = 0;  // k
  int head_dim = 0;  // d

  int64_t layer_floats() const { return static_cast<int64_t>(groups) * features * (head_dim + 1); }
  // Linear layers · G · k · (d + 1) · 4; INT64_MAX where that is beyond 64 bits.
  int64_t bytes() const {
    int64_t bytes = 0;
    return __builtin_mul_overflow(layer_floats() * 4, int64_t{layers}, &bytes) ? INT64_MAX : bytes;
  }
};

class StatePool {
 public:
  // What a slot takes: the state, padded to 64 bytes; INT64_MAX where that is beyond 64 bits.
  static int64_t SlotBytes(const StateShape& shape);
  // All slots start free and zero. Throws DeviceError when the memory is not there.
  StatePool(Backend& backend, const StateShape& shape, int slots);

  int slots() const { return static_cast<int>(in_use_.size()); }
  int free_slots() const { return static_cast<int>(free_.size()); }
  // A free, zeroed slot, or -1.
  int Acquire();
  // Zeroes the slot and makes it free.
  void Release(int slot);
  // Copies the state of one slot onto another (fork).
  void Copy(int from, int to);

  // Slot 0's part for a linear layer (counted among linear layers only); add slot · stride().
  float* layer(int linear_layer) const {
    return buffer_.f32() + linear_layer * shape_.layer_floats();
  }
  int64_t stride() const { return stride_; }  // floats between slots
  const StateShape& shape() const { return shape_; }

 private:
  Backend& backend_;
  StateShape shape_;
  int64_t stride_ = 0;
  Buffer buffer_;
  std::vector<int> free_;
  std::vector<bool> in_use_;
};

}  // namespace t2r

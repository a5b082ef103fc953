// The recurrent states of all sessions: fixed-size slots in one device buffer.
//
// A slot holds, for each linear layer in order, the keys and values of its window
// (windowed_attention.h) where it has one, then S [G, k, d] and z [G, k], float32, all contiguous:
// its size is known at start and never grows. Layers may differ in size. Padded to 64 bytes. Owned
// and called by the engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r {

// What one linear layer keeps of a session.
struct LayerState {
  int features = 0;       // k; 0: neither S nor z
  int64_t positions = 0;  // whose keys and values are kept one by one: w + C − 1 + n; 0: no window
};

struct StateShape {
  int groups = 0;                        // G
  int head_dim = 0;                      // d
  DType window_dtype = DType::kFloat32;  // of the windows' keys and values
  std::vector<LayerState> layers;        // the linear ones

  // Of one layer's window.
  int64_t window_bytes(const LayerState& layer) const {
    return WindowBytes(layer.positions, groups, head_dim, window_dtype);
  }
  // Of one layer: the window's, and G · k · (d + 1) · 4.
  int64_t layer_bytes(const LayerState& layer) const {
    return window_bytes(layer) + int64_t{groups} * layer.features * (head_dim + 1) * 4;
  }
  // Of all layers; INT64_MAX where that is beyond 64 bits.
  int64_t bytes() const;
};

class StatePool {
 public:
  // What a slot takes: the state, padded to 64 bytes; INT64_MAX where that is beyond 64 bits.
  static int64_t SlotBytes(const StateShape& shape);
  // All slots start free and zero. Behind them are `kept` places, [slots, slots + kept), for Copy
  // alone. Throws DeviceError when the memory is not there.
  StatePool(Backend& backend, const StateShape& shape, int slots, int kept = 0);

  int slots() const { return static_cast<int>(in_use_.size()); }
  int free_slots() const { return static_cast<int>(free_.size()); }
  // A free, zeroed slot, or -1.
  int Acquire();
  // Zeroes the slot and makes it free.
  void Release(int slot);
  // Copies the state of one slot or place onto another (fork).
  void Copy(int from, int to);
  // A slot's state to and from host memory, shape().bytes() of it.
  void Read(int slot, std::byte* host) const;
  void Write(int slot, const std::byte* host);

  // Slot 0's part for a linear layer (counted among linear layers only): its window, and its sums S
  // and z; add slot · stride() floats.
  void* window(int linear_layer) const { return buffer_.f32() + layer_at_[linear_layer]; }
  float* sums(int linear_layer) const { return buffer_.f32() + sums_at_[linear_layer]; }
  int64_t stride() const { return stride_; }  // floats between slots
  const StateShape& shape() const { return shape_; }

 private:
  Backend& backend_;
  StateShape shape_;
  // Floats from a slot's start to each layer's window and sums.
  std::vector<int64_t> layer_at_;
  std::vector<int64_t> sums_at_;
  int64_t stride_ = 0;
  Buffer buffer_;
  std::vector<int> free_;
  std::vector<bool> in_use_;  // the slots
};

}  // namespace t2r

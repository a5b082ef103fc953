// Reading matrices of any stored type as float32.
#pragma once

#include <cstdint>

#include "engine/ops/dtype.h"

namespace t2r {

struct BFloat16Bits {
  uint16_t bits;
};
struct Float16Bits {
  uint16_t bits;
};
inline float Widen(float value) { return value; }
inline float Widen(BFloat16Bits value) { return BFloat16ToFloat(value.bits); }
inline float Widen(Float16Bits value) { return Float16ToFloat(value.bits); }

// Calls fn with `data` as a pointer to its element type, which is not a quantised one.
template <typename Fn>
void WithElements(const void* data, DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::kFloat32:
      return fn(static_cast<const float*>(data));
    case DType::kBFloat16:
      return fn(static_cast<const BFloat16Bits*>(data));
    case DType::kFloat16:
      return fn(static_cast<const Float16Bits*>(data));
    case DType::kInt8:
    case DType::kInt4:
    case DType::kFloat8:
      return;
  }
}

}  // namespace t2r

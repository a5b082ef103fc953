// Element types of tensors and the exact conversions between them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace t2r {

// kInt8 and kInt4 are of matrices, quantised in groups (engine/ops/quantize.h); kInt8 is also that
// of the bytes which a file stores of either, and of windows (WindowBytes). kFloat8 (e4m3) is of
// matrices on GPUs (engine/ops/cuda/fp8_kernels.h).
enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16, kInt8, kInt4, kFloat8 };

// Whether elements have scales beside them.
constexpr bool IsQuantized(DType dtype) {
  return dtype == DType::kInt8 || dtype == DType::kInt4 || dtype == DType::kFloat8;
}

// Bytes of an element; of kInt4, which shares bytes, there is none: see MatrixBytes.
constexpr size_t SizeOf(DType dtype) {
  if (dtype == DType::kInt8 || dtype == DType::kFloat8) return 1;
  return dtype == DType::kFloat32 ? 4 : 2;
}

constexpr const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt8:
      return "int8";
    case DType::kInt4:
      return "int4";
    case DType::kFloat8:
      return "fp8";
  }
  return "";
}

// bfloat16 is the upper half of a float32, so widening is exact.
constexpr float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN (quiet).
constexpr uint16_t FloatToBFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// The same for code that is written once for all: a bfloat16 is a uint16_t there.
constexpr float FromElement(float x) { return x; }
constexpr float FromElement(uint16_t x) { return BFloat16ToFloat(x); }
constexpr float FromElement(int8_t x) { return x; }  // an 8-bit code, without its scale
template <typename Element>
constexpr Element ToElement(float x) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    return x;
  } else {
    return FloatToBFloat16(x);
  }
}

// IEEE 754 binary16 to float32, exact, subnormals and infinities included.
constexpr float Float16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

}  // namespace t2r

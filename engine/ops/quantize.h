// Weights in 8 and 4 bits: what the numbers mean in files and on the CPU (on a device:
// docs/cuda.md).
//
// A row of K input features is cut into groups of kQuantGroup; the last one may be shorter. A group
// has a scale s and codes q, so that a weight is
//   int8: s · (q − 128), q in 1 … 255, symmetric about zero;
//   int4: s · q + m, q in 0 … 15, with a minimum m of its own.
// s and m are bfloat16, and the codes are chosen for the rounded s and m, so that their rounding
// costs nothing.
//
// Activations meet such weights as integers too: an op's row is cut into the same groups, and a
// group becomes a scale and 16-bit integers, or 8-bit ones where that is asked for. Products of
// integers are summed exactly, a group at a time; only the groups' results are rounded.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "engine/ops/dtype.h"
#include "engine/ops/matmul.h"

namespace t2r {

inline constexpr int64_t kQuantGroup = 32;
// Groups of a row of `cols` values.
constexpr int64_t QuantGroups(int64_t cols) { return (cols + kQuantGroup - 1) / kQuantGroup; }

// Added to int8 codes, so that codes of both types are unsigned.
inline constexpr int kInt8Offset = 128;

// A weight's group.
struct QuantizedGroup {
  uint16_t scale = 0;    // bfloat16
  uint16_t minimum = 0;  // bfloat16; 0 with int8
  std::array<uint8_t, kQuantGroup> codes = {};

  float Value(DType dtype, int64_t i) const {
    const float s = BFloat16ToFloat(scale);
    const auto code = static_cast<int>(codes[static_cast<size_t>(i)]);
    if (dtype == DType::kInt8) return s * static_cast<float>(code - kInt8Offset);
    return s * static_cast<float>(code) + BFloat16ToFloat(minimum);
  }
};

// Groups whose values or ranges are smaller than this count as constant.
inline constexpr float kConstantGroup = 1e-30F;

// The nearest bfloat16 that is not less, of a finite value ≥ 0.
inline uint16_t BFloat16NotLess(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits >> 16) + ((bits & 0xffffU) != 0 ? 1 : 0));
}

// The nearest bfloat16 that is not greater, of any finite value.
inline uint16_t BFloat16NotGreater(float value) {
  if (value >= 0) return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  return static_cast<uint16_t>(BFloat16NotLess(-value) | 0x8000U);
}

// A group of a matrix that a file holds quantised (HostMatrix::scales, docs/model-format.md).
QuantizedGroup StoredGroup(const HostMatrix& matrix, int64_t row, int64_t index);

// What the codes of one of its rows stand for, to out [cols].
void ReadStoredRow(const HostMatrix& matrix, int64_t row, float* out);

// Bytes of a matrix of any type: of whole groups where it is quantised, codes, scales and minimums.
constexpr int64_t MatrixBytes(int64_t rows, int64_t cols, DType dtype) {
  if (dtype == DType::kInt8) return rows * QuantGroups(cols) * (kQuantGroup + 2);
  if (dtype == DType::kInt4) return rows * QuantGroups(cols) * (kQuantGroup / 2 + 4);
  return rows * cols * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace t2r

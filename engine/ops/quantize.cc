#include "engine/ops/quantize.h"

#include <algorithm>
#include <cstddef>

namespace t2r {

QuantizedGroup StoredGroup(const HostMatrix& matrix, int64_t row, int64_t index) {
  const int64_t groups = QuantGroups(matrix.cols);
  const int64_t count = std::min(kQuantGroup, matrix.cols - index * kQuantGroup);
  const bool int4 = matrix.dtype == DType::kInt4;
  QuantizedGroup group;
  const uint16_t* scales = matrix.scales + (row * groups + index) * (int4 ? 2 : 1);
  group.scale = scales[0];
  if (int4) group.minimum = scales[1];
  if (!int4) group.codes.fill(kInt8Offset);
  const auto* bytes = static_cast<const uint8_t*>(matrix.data);
  for (int64_t i = 0; i < count; ++i) {
    uint8_t& code = group.codes[static_cast<size_t>(i)];
    if (int4) {
      const uint8_t both =
          bytes[(row * groups + index) * (kQuantGroup / 2) + i % (kQuantGroup / 2)];
      code = i < kQuantGroup / 2 ? both & 15U : static_cast<uint8_t>(both >> 4);
    } else {
      code = static_cast<uint8_t>(bytes[row * matrix.cols + index * kQuantGroup + i] + kInt8Offset);
    }
  }
  return group;
}

void ReadStoredRow(const HostMatrix& matrix, int64_t row, float* out) {
  for (int64_t first = 0; first < matrix.cols; first += kQuantGroup) {
    const QuantizedGroup group = StoredGroup(matrix, row, first / kQuantGroup);
    const int64_t count = std::min(kQuantGroup, matrix.cols - first);
    for (int64_t i = 0; i < count; ++i) out[first + i] = group.Value(matrix.dtype, i);
  }
}

}  // namespace t2r

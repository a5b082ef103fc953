#include "engine/ops/cpu/packed_matrix.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "engine/ops/cpu/elements.h"
#include "engine/ops/cpu/memory.h"
#include "engine/ops/quantize.h"

namespace t2r {
namespace {

// Writes one output feature, `lane` of its panel. The panel starts zeroed.
template <typename T>
void PackFeature(const T* source, int64_t step, int64_t cols, DType dtype, int panel_cols, int lane,
                 void* panel) {
  if (dtype == DType::kFloat32) {
    float* to = static_cast<float*>(panel) + lane;
    for (int64_t k = 0; k < cols; ++k) to[k * panel_cols] = Widen(source[k * step]);
    return;
  }
  // As 16-bit halves: word j holds feature j in its lower half, feature j + half in its upper.
  const int half = panel_cols / 2;
  const int word = lane % half;
  const int upper = lane / half;
  auto* to = static_cast<uint32_t*>(panel) + word;
  for (int64_t k = 0; k < cols; ++k) {
    const uint32_t bits = FloatToBFloat16(Widen(source[k * step]));
    to[k * half] |= bits << (16 * upper);
  }
}

// A row that a file holds quantised, beside folded rows of the same matrix.
std::vector<float> StoredRow(const HostMatrix& matrix, int64_t row) {
  std::vector<float> values(static_cast<size_t>(matrix.cols));
  for (int64_t g = 0; g < QuantGroups(matrix.cols); ++g) {
    const QuantizedGroup group = StoredGroup(matrix, row, g);
    const int64_t count = std::min(kQuantGroup, matrix.cols - g * kQuantGroup);
    for (int64_t i = 0; i < count; ++i) {
      values[static_cast<size_t>(g * kQuantGroup + i)] = group.Value(matrix.dtype, i);
    }
  }
  return values;
}

}  // namespace

PackedMatrix::PackedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype,
                           int panel_cols, ThreadPool& pool)
    : Matrix(rows, parts[0].cols, dtype), panel_count_((rows + panel_cols - 1) / panel_cols) {
  assert(dtype != DType::kFloat16);
  const size_t panel_bytes = static_cast<size_t>(cols()) * panel_cols * SizeOf(dtype);
  buffer_ = AllocateHost(panel_bytes * panel_count_);
  pool.Run(panel_count_, [&](int64_t panel, int) {
    void* to = static_cast<std::byte*>(buffer_.data()) + panel * panel_bytes;
    int64_t first = 0;  // the part's first row in the stack
    for (const HostMatrix& part : parts) {
      const int64_t begin = std::max(first, panel * panel_cols);
      const int64_t end = std::min(first + part.rows, (panel + 1) * panel_cols);
      for (int64_t n = begin; n < end; ++n) {
        const int64_t row = n - first;
        const auto lane = static_cast<int>(n - panel * panel_cols);
        if (IsQuantized(part.dtype)) {
          const std::vector<float> values = StoredRow(part, row);
          PackFeature(values.data(), 1, part.cols, dtype, panel_cols, lane, to);
          continue;
        }
        WithElements(part.data, part.dtype, [&](auto* source) {
          PackFeature(source + (part.transposed ? row : row * part.cols),
                      part.transposed ? part.rows : 1, part.cols, dtype, panel_cols, lane, to);
        });
      }
      first += part.rows;
    }
  });
}

void HostTable::ReadRow(int64_t row, float* out) const {
  WithElements(buffer_.data(), dtype(), [&](auto* source) {
    for (int64_t i = 0; i < cols(); ++i) out[i] = Widen(source[row * cols() + i]);
  });
}

void HostTable::AddRow(int64_t row, float* out) const {
  WithElements(buffer_.data(), dtype(), [&](auto* source) {
    for (int64_t i = 0; i < cols(); ++i) out[i] += Widen(source[row * cols() + i]);
  });
}

}  // namespace t2r

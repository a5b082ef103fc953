#include "engine/ops/cpu/packed_matrix.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "engine/ops/cpu/elements.h"
#include "engine/ops/cpu/memory.h"
#include "engine/ops/quantize.h"

namespace t2r {

PackedMatrix::PackedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype,
                           PanelLayout layout, int panel_cols, int input_multiple, ThreadPool& pool)
    : LookupTable(rows, parts[0].cols, dtype), layout_(layout), panel_cols_(panel_cols) {
  assert(dtype == DType::kBFloat16 || (dtype == DType::kFloat32 && layout != PanelLayout::kPairs));
  assert(layout != PanelLayout::kPairs || input_multiple % 2 == 0);
  const int64_t inputs = (cols() + input_multiple - 1) / input_multiple * input_multiple;
  panel_bytes_ = static_cast<size_t>(inputs * panel_cols) * SizeOf(dtype);
  buffer_ = AllocateWeights(panel_bytes_ * static_cast<size_t>(panel_count()));
  pool.Run(panel_count(), [&](int64_t panel, int) {
    void* to = static_cast<std::byte*>(buffer_.data()) + static_cast<size_t>(panel) * panel_bytes_;
    int64_t first = 0;  // the part's first row in the stack
    for (const HostMatrix& part : parts) {
      const int64_t begin = std::max(first, panel * panel_cols);
      const int64_t end = std::min(first + part.rows, (panel + 1) * panel_cols);
      for (int64_t n = begin; n < end; ++n) {
        const int64_t row = n - first;
        const auto lane = static_cast<int>(n - panel * panel_cols);
        if (IsQuantized(part.dtype)) {
          std::vector<float> values(static_cast<size_t>(part.cols));
          ReadStoredRow(part, row, values.data());
          PackFeature(values.data(), 1, lane, to);
          continue;
        }
        WithElements(part.data, part.dtype, [&](auto* source) {
          PackFeature(source + (part.transposed ? row : row * part.cols),
                      part.transposed ? part.rows : 1, lane, to);
        });
      }
      first += part.rows;
    }
  });
}

template <typename T>
void PackedMatrix::PackFeature(const T* source, int64_t step, int lane, void* panel) const {
  if (dtype() == DType::kFloat32) {
    float* to = static_cast<float*>(panel) + lane;
    for (int64_t k = 0; k < cols(); ++k) to[k * panel_cols_] = Widen(source[k * step]);
    return;
  }
  if (layout_ == PanelLayout::kPairs) {
    auto* to = static_cast<uint32_t*>(panel) + lane;
    for (int64_t k = 0; k < cols(); ++k) {
      const uint32_t bits = FloatToBFloat16(Widen(source[k * step]));
      to[k / 2 * panel_cols_] |= bits << (16 * (k % 2));
    }
    return;
  }
  // Word j holds feature j in its lower half, feature j + half in its upper.
  const int half = panel_cols_ / 2;
  auto* to = static_cast<uint32_t*>(panel) + lane % half;
  for (int64_t k = 0; k < cols(); ++k) {
    const uint32_t bits = FloatToBFloat16(Widen(source[k * step]));
    to[k * half] |= bits << (16 * (lane / half));
  }
}

template <typename Fn>
void PackedMatrix::ForFeature(int64_t row, const Fn& fn) const {
  const auto* panel = static_cast<const std::byte*>(buffer_.data()) +
                      static_cast<size_t>(row / panel_cols_) * panel_bytes_;
  const auto lane = static_cast<int>(row % panel_cols_);
  if (dtype() == DType::kFloat32) {
    const auto* from = reinterpret_cast<const float*>(panel) + lane;
    for (int64_t k = 0; k < cols(); ++k) fn(k, from[k * panel_cols_]);
    return;
  }
  const auto* words = reinterpret_cast<const uint32_t*>(panel);
  const int half = panel_cols_ / 2;
  for (int64_t k = 0; k < cols(); ++k) {
    const bool pairs = layout_ == PanelLayout::kPairs;
    const uint32_t word = words[pairs ? k / 2 * panel_cols_ + lane : k * half + lane % half];
    fn(k, BFloat16ToFloat(static_cast<uint16_t>(word >> (16 * (pairs ? k % 2 : lane / half)))));
  }
}

void PackedMatrix::ReadRow(int64_t row, float* out) const {
  ForFeature(row, [&](int64_t k, float weight) { out[k] = weight; });
}

void PackedMatrix::AddRow(int64_t row, float* out) const {
  ForFeature(row, [&](int64_t k, float weight) { out[k] += weight; });
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

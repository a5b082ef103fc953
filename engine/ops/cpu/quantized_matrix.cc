#include "engine/ops/cpu/quantized_matrix.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "engine/ops/cpu/elements.h"
#include "engine/ops/cpu/int_gemm/kernels.h"
#include "engine/ops/cpu/memory.h"
#include "engine/ops/cpu/quantize_group.h"

namespace t2r {
namespace {

constexpr int64_t kBlockInputs = 4;
constexpr int64_t kBlockBytes = kIntPanel * kBlockInputs;

// int4 shares bytes between block b and block b + kHalfBlocks.
constexpr int64_t kBlocks = kQuantGroup / kBlockInputs;
constexpr int64_t kHalfBlocks = kBlocks / 2;

}  // namespace

QuantizedMatrix::QuantizedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype,
                                 ThreadPool& pool)
    : LookupTable(rows, parts[0].cols, dtype) {
  assert(IsQuantized(dtype));
  const int64_t groups = QuantGroups(cols());
  panel_bytes_ = PanelBytes(groups, dtype == DType::kInt4);
  buffer_ = AllocateWeights(static_cast<size_t>(panel_bytes_ * panel_count()));
  pool.Run(panel_count(), [&](int64_t panel, int) {
    int64_t first = 0;  // the part's first row in the stack
    for (const HostMatrix& part : parts) {
      const int64_t begin = std::max(first, panel * kIntPanel);
      const int64_t end = std::min(first + part.rows, (panel + 1) * kIntPanel);
      for (int64_t n = begin; n < end; ++n) PackRow(part, n - first, n);
      first += part.rows;
    }
  });
}

int64_t QuantizedMatrix::CodesOf(int64_t row, int64_t index) const {
  return row / kIntPanel * panel_bytes_ + CodesAt(index, dtype() == DType::kInt4);
}

int64_t QuantizedMatrix::panel_count() const { return (rows() + kIntPanel - 1) / kIntPanel; }

void QuantizedMatrix::PackRow(const HostMatrix& part, int64_t row, int64_t to) {
  const int64_t groups = QuantGroups(cols());
  if (IsQuantized(part.dtype)) {
    assert(part.dtype == dtype() && part.scales != nullptr);
    for (int64_t g = 0; g < groups; ++g) PutGroup(StoredGroup(part, row, g), to, g);
    return;
  }
  WithElements(part.data, part.dtype, [&](auto* source) {
    source += part.transposed ? row : row * part.cols;
    const int64_t step = part.transposed ? part.rows : 1;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kQuantGroup;
      const int64_t count = std::min(kQuantGroup, cols() - first);
      float values[kQuantGroup];
      for (int64_t i = 0; i < count; ++i) values[i] = Widen(source[(first + i) * step]);
      PutGroup(QuantizeGroup(values, count, dtype()), to, g);
    }
  });
}

void QuantizedMatrix::PutGroup(const QuantizedGroup& group, int64_t row, int64_t index) {
  const bool int4 = dtype() == DType::kInt4;
  const int64_t lane = row % kIntPanel;
  auto* codes = static_cast<uint8_t*>(buffer_.data()) + CodesOf(row, index);
  auto* scales = reinterpret_cast<uint16_t*>(codes - ScalesBefore(index, int4));
  scales[lane] = group.scale;
  if (int4) scales[kIntPanel + lane] = group.minimum;
  uint32_t blocks[kBlocks];
  std::memcpy(blocks, group.codes.data(), sizeof(blocks));
  codes += lane * kBlockInputs;
  const int64_t stored = int4 ? kHalfBlocks : kBlocks;
  for (int64_t b = 0; b < stored; ++b) {
    uint32_t block = blocks[b];
    if (int4) {
      assert(((block | blocks[b + kHalfBlocks]) & 0xf0f0f0f0U) == 0);
      block |= blocks[b + kHalfBlocks] << 4;
    }
    std::memcpy(codes + b * kBlockBytes, &block, sizeof(block));
  }
}

QuantizedGroup QuantizedMatrix::GetGroup(int64_t row, int64_t index) const {
  const bool int4 = dtype() == DType::kInt4;
  const int64_t lane = row % kIntPanel;
  const uint8_t* codes = panels() + CodesOf(row, index);
  const auto* scales = reinterpret_cast<const uint16_t*>(codes - ScalesBefore(index, int4));
  QuantizedGroup group;
  group.scale = scales[lane];
  if (int4) group.minimum = scales[kIntPanel + lane];
  codes += lane * kBlockInputs;
  uint32_t blocks[kBlocks];
  const int64_t stored = int4 ? kHalfBlocks : kBlocks;
  for (int64_t b = 0; b < stored; ++b) {
    std::memcpy(&blocks[b], codes + b * kBlockBytes, sizeof(blocks[b]));
    if (!int4) continue;
    blocks[b + kHalfBlocks] = blocks[b] >> 4 & 0x0f0f0f0fU;
    blocks[b] &= 0x0f0f0f0fU;
  }
  std::memcpy(group.codes.data(), blocks, sizeof(blocks));
  return group;
}

void QuantizedMatrix::ReadRow(int64_t row, float* out) const {
  std::fill_n(out, cols(), 0.0F);
  AddRow(row, out);
}

void QuantizedMatrix::AddRow(int64_t row, float* out) const {
  for (int64_t g = 0; g < QuantGroups(cols()); ++g) {
    const QuantizedGroup group = GetGroup(row, g);
    const int64_t count = std::min(kQuantGroup, cols() - g * kQuantGroup);
    for (int64_t i = 0; i < count; ++i) out[g * kQuantGroup + i] += group.Value(dtype(), i);
  }
}

}  // namespace t2r

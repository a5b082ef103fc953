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

int64_t GroupCodes(DType dtype) {
  return kIntPanel * kQuantGroup / (dtype == DType::kInt4 ? 2 : 1);
}
int64_t GroupScales(DType dtype) { return kIntPanel * (dtype == DType::kInt4 ? 2 : 1); }

}  // namespace

QuantizedMatrix::QuantizedMatrix(std::span<const HostMatrix> parts, int64_t rows, DType dtype,
                                 ThreadPool& pool)
    : LookupTable(rows, parts[0].cols, dtype) {
  assert(IsQuantized(dtype));
  const int64_t groups = QuantGroups(cols());
  const int64_t scale_bytes = groups * GroupScales(dtype) * static_cast<int64_t>(sizeof(uint16_t));
  codes_offset_ = (scale_bytes + 63) / 64 * 64;
  panel_bytes_ = codes_offset_ + groups * GroupCodes(dtype);
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
  auto* panel = static_cast<uint8_t*>(buffer_.data()) + row / kIntPanel * panel_bytes_;
  const int64_t lane = row % kIntPanel;
  auto* scales = reinterpret_cast<uint16_t*>(panel) + index * GroupScales(dtype());
  scales[lane] = group.scale;
  if (dtype() == DType::kInt4) scales[kIntPanel + lane] = group.minimum;
  uint8_t* codes = panel + codes_offset_ + index * GroupCodes(dtype()) + lane * kBlockInputs;
  uint32_t blocks[kBlocks];
  std::memcpy(blocks, group.codes.data(), sizeof(blocks));
  const int64_t stored = dtype() == DType::kInt4 ? kHalfBlocks : kBlocks;
  for (int64_t b = 0; b < stored; ++b) {
    uint32_t block = blocks[b];
    if (dtype() == DType::kInt4) {
      assert(((block | blocks[b + kHalfBlocks]) & 0xf0f0f0f0U) == 0);
      block |= blocks[b + kHalfBlocks] << 4;
    }
    std::memcpy(codes + b * kBlockBytes, &block, sizeof(block));
  }
}

QuantizedGroup QuantizedMatrix::GetGroup(int64_t row, int64_t index) const {
  const uint8_t* panel = panels() + row / kIntPanel * panel_bytes_;
  const int64_t lane = row % kIntPanel;
  const auto* scales = reinterpret_cast<const uint16_t*>(panel) + index * GroupScales(dtype());
  QuantizedGroup group;
  group.scale = scales[lane];
  if (dtype() == DType::kInt4) group.minimum = scales[kIntPanel + lane];
  const uint8_t* codes = panel + codes_offset_ + index * GroupCodes(dtype()) + lane * kBlockInputs;
  uint32_t blocks[kBlocks];
  const int64_t stored = dtype() == DType::kInt4 ? kHalfBlocks : kBlocks;
  for (int64_t b = 0; b < stored; ++b) {
    std::memcpy(&blocks[b], codes + b * kBlockBytes, sizeof(blocks[b]));
    if (dtype() == DType::kInt8) continue;
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

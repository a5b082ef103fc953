#include "engine/ops/cuda/batch_upload.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

namespace t2r::cuda {
namespace {

// Parts of the upload, each 16-byte aligned. Pages come last, as their number varies most: for a
// step of decodes, what lies before them is where it was for every other of the same shape.
class Packer {
 public:
  // host null: only counts.
  Packer(std::byte* host, const std::byte* device) : host_(host), device_(device) {}

  // Room for `count` elements, zero beyond `values`; returns the device's address.
  template <typename T>
  const T* Add(const std::vector<T>& values, size_t count) {
    const size_t at = used_;
    used_ += (count * sizeof(T) + 15) / 16 * 16;
    if (host_ == nullptr) return nullptr;
    if (!values.empty()) std::memcpy(host_ + at, values.data(), values.size() * sizeof(T));
    std::memset(host_ + at + values.size() * sizeof(T), 0, used_ - at - values.size() * sizeof(T));
    return reinterpret_cast<const T*>(device_ + at);
  }
  size_t used() const { return used_; }

 private:
  std::byte* host_;
  const std::byte* device_;
  size_t used_ = 0;
};

struct Tiling {
  std::vector<RowTile> tiles;
  std::vector<TiledSegment> tiled;
  std::vector<RowTile> singles;
};

Tiling TilingOf(const Batch& batch, const StepShape& shape) {
  Tiling tiling;
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const Segment& segment = batch.segments[i];
    const auto first_tile = static_cast<int32_t>(tiling.tiles.size());
    int32_t row = 0;
    while (row < segment.rows) {
      const int64_t position = segment.position + row;
      const auto rows = static_cast<int32_t>(
          std::min<int64_t>(segment.rows - row, kTileRows - position % kTileRows));
      const RowTile tile = {segment.slot, static_cast<int32_t>(i), segment.first_row + row, rows,
                            position};
      row += rows;
      (rows == 1 && row == segment.rows ? tiling.singles : tiling.tiles).push_back(tile);
    }
    const auto tiles = static_cast<int32_t>(tiling.tiles.size()) - first_tile;
    if (tiles > 0) tiling.tiled.push_back({static_cast<int32_t>(i), first_tile, tiles});
  }
  for (int64_t row = batch.rows(); row < shape.rows; ++row) {
    tiling.singles.push_back({-1, 0, static_cast<int32_t>(row), 1, 0});
  }
  return tiling;
}

DeviceBatch Pack(const Batch& batch, const StepShape& shape, Packer* packer) {
  const Tiling tiling = TilingOf(batch, shape);
  // Both kinds of pages lie in one array.
  std::vector<Segment> segments = batch.segments;
  for (Segment& segment : segments) {
    segment.first_source_page += static_cast<int32_t>(batch.pages.size());
  }
  std::vector<int32_t> pages = batch.pages;
  pages.insert(pages.end(), batch.source_pages.begin(), batch.source_pages.end());

  DeviceBatch device;
  device.rows = shape.rows;
  device.logit_row_count = shape.logit_rows;
  const auto rows = static_cast<size_t>(shape.rows);
  device.positions = packer->Add(batch.positions, rows);
  device.tokens = packer->Add(batch.tokens, rows);
  device.logit_rows = packer->Add(batch.logit_rows, static_cast<size_t>(shape.logit_rows));
  device.singles = packer->Add(tiling.singles, tiling.singles.size());
  device.single_count = static_cast<int32_t>(tiling.singles.size());
  // A padded row's segment is 0; a step of decodes has as many places as rows.
  device.segments = packer->Add(segments, std::max(segments.size(), tiling.singles.size()));
  device.tiles = packer->Add(tiling.tiles, tiling.tiles.size());
  device.tile_count = static_cast<int32_t>(tiling.tiles.size());
  device.tiled = packer->Add(tiling.tiled, tiling.tiled.size());
  device.tiled_count = static_cast<int32_t>(tiling.tiled.size());
  device.pages = packer->Add(pages, pages.size());
  device.source_pages = device.pages;
  return device;
}

}  // namespace

bool IsDecode(const Batch& batch) {
  if (batch.rows() == 0 || static_cast<int64_t>(batch.segments.size()) != batch.rows()) {
    return false;
  }
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const Segment& segment = batch.segments[i];
    if (segment.rows != 1 || segment.first_row != static_cast<int32_t>(i)) return false;
  }
  return true;
}

size_t UploadBytes(const StepLimits& limits) {
  // Every row at worst has a segment, a tile of its own and a place among the segments with tiles.
  constexpr size_t kRow = sizeof(int64_t) + sizeof(int32_t) + sizeof(Segment) +
                          2 * sizeof(RowTile) + sizeof(TiledSegment);
  constexpr size_t kPadding = 16 * 8;
  return static_cast<size_t>(limits.max_rows) * kRow +
         static_cast<size_t>(limits.max_logit_rows + 2 * limits.max_pages) * sizeof(int32_t) +
         kPadding;
}

BatchUploader::BatchUploader(cudaStream_t stream) : stream_(stream) {
  for (Slot& slot : ring_) {
    Check(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "cudaEventCreate");
  }
}

BatchUploader::~BatchUploader() {
  for (Slot& slot : ring_) {
    if (slot.copied != nullptr) static_cast<void>(cudaEventDestroy(slot.copied));
  }
}

bool BatchUploader::Reserve(size_t bytes) {
  if (bytes <= device_.bytes()) return false;
  Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  for (Slot& slot : ring_) slot.host = PinnedArray<std::byte>(bytes);
  device_ = {};
  device_ = DeviceArray<std::byte>(bytes);
  return true;
}

size_t BatchUploader::BytesOf(const Batch& batch, const StepShape& shape) {
  Packer packer(nullptr, nullptr);
  Pack(batch, shape, &packer);
  return packer.used();
}

DeviceBatch BatchUploader::Upload(const Batch& batch, const StepShape& shape) {
  Slot& slot = ring_[next_];
  next_ = (next_ + 1) % ring_.size();
  Check(cudaEventSynchronize(slot.copied), "cudaEventSynchronize");
  Packer packer(slot.host.data(), device_.data());
  const DeviceBatch device = Pack(batch, shape, &packer);
  assert(packer.used() <= device_.bytes());
  Check(cudaMemcpyAsync(device_.data(), slot.host.data(), packer.used(), cudaMemcpyHostToDevice,
                        stream_),
        "upload of the batch");
  Check(cudaEventRecord(slot.copied, stream_), "cudaEventRecord");
  return device;
}

}  // namespace t2r::cuda

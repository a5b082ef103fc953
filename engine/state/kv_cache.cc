#include "engine/state/kv_cache.h"

#include <cassert>
#include <string>

namespace t2r {

KvCache::KvCache(Backend& backend, const KvShape& shape, int64_t pages, int slots)
    : backend_(backend), shape_(shape), pages_(shape.layers == 0 ? 0 : pages), tables_(slots) {
  int64_t bytes = 0;
  if (pages_ > INT32_MAX || __builtin_mul_overflow(shape.page_bytes(), pages_, &bytes)) {
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      "a key/value cache of " + std::to_string(pages) + " pages of " +
                          std::to_string(shape.page_bytes()) + " bytes does not fit any memory");
  }
  buffer_ = backend.Allocate(static_cast<size_t>(bytes));
  free_.reserve(static_cast<size_t>(pages_));
  for (int64_t page = pages_ - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
  owners_.assign(static_cast<size_t>(pages_), 0);
}

bool KvCache::CanReserve(int64_t positions, int count) const {
  return shape_.layers == 0 || PagesFor(positions) <= free_pages() / count;
}

bool KvCache::Reserve(int slot, int64_t positions, bool clear) {
  assert(tables_[slot].empty());
  if (!CanReserve(positions)) return false;
  if (shape_.layers == 0) return true;
  const int64_t count = PagesFor(positions);
  tables_[slot].assign(free_.end() - count, free_.end());
  free_.resize(free_.size() - static_cast<size_t>(count));
  for (const int32_t index : tables_[slot]) {
    owners_[index] = 1;
    if (clear) backend_.Zero(page(index), static_cast<size_t>(shape_.page_bytes()));
  }
  return true;
}

void KvCache::Return(int32_t page) {
  assert(owners_[page] > 0);
  if (--owners_[page] == 0) free_.push_back(page);
}

void KvCache::Release(int slot) {
  for (const int32_t page : tables_[slot]) Return(page);
  tables_[slot].clear();
}

void KvCache::Fork(int from, int to, int64_t positions) {
  if (shape_.layers == 0) return;
  const int64_t full = positions / kKvPageSize;
  for (int64_t page = 0; page < full; ++page) {
    const int32_t shared = tables_[from][page];
    if (tables_[to][page] == shared) continue;
    Return(tables_[to][page]);
    tables_[to][page] = shared;
    ++owners_[shared];
  }
  if (positions % kKvPageSize == 0) return;
  assert(owners_[tables_[to][full]] == 1);
  backend_.CopyOnDevice(page(tables_[to][full]), page(tables_[from][full]),
                        static_cast<size_t>(shape_.page_bytes()));
}

void KvCache::Read(int slot, int64_t positions, std::byte* host) const {
  if (shape_.layers == 0) return;
  const int64_t bytes = shape_.page_bytes();
  for (int64_t i = 0; i < PagesFor(positions); ++i) {
    backend_.CopyToHost(host + i * bytes, page(tables_[slot][i]), static_cast<size_t>(bytes));
  }
}

void KvCache::Write(int slot, int64_t positions, const std::byte* host) {
  if (shape_.layers == 0) return;
  const int64_t bytes = shape_.page_bytes();
  for (int64_t i = 0; i < PagesFor(positions); ++i) {
    backend_.CopyToDevice(page(tables_[slot][i]), host + i * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace t2r

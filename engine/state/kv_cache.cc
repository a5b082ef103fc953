#include "engine/state/kv_cache.h"

#include <algorithm>
#include <cassert>
#include <string>

namespace t2r {

KvCache::KvCache(Backend& backend, const KvShape& shape, int64_t pages, int slots, int kept,
                 int64_t kept_pages)
    : backend_(backend),
      shape_(shape),
      pages_(shape.layers == 0 ? 0 : pages),
      max_kept_pages_(shape.layers == 0 ? 0 : kept_pages),
      tables_(static_cast<size_t>(slots) + static_cast<size_t>(kept)) {
  int64_t bytes = 0;
  int64_t all = 0;
  if (__builtin_add_overflow(pages_, max_kept_pages_, &all) || all > INT32_MAX ||
      __builtin_mul_overflow(shape.page_bytes(), all, &bytes)) {
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      "a key/value cache of " + std::to_string(pages) + " pages of " +
                          std::to_string(shape.page_bytes()) + " bytes does not fit any memory");
  }
  buffer_ = backend.Allocate(static_cast<size_t>(bytes));
  free_.reserve(static_cast<size_t>(all));
  for (int64_t page = all - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
  owners_.assign(static_cast<size_t>(all), 0);
  keepers_.assign(static_cast<size_t>(all), 0);
}

bool KvCache::CanReserve(int64_t positions, int count) const {
  // The rest of the kept ones' share is theirs.
  const int64_t free = free_pages() - (max_kept_pages_ - kept_pages_);
  return shape_.layers == 0 || PagesFor(positions) <= free / count;
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

bool KvCache::Keep(int slot, int place, int64_t positions) {
  if (shape_.layers == 0) return true;
  assert(tables_[place].empty() && positions % kKvPageSize == 0);
  const std::span<const int32_t> pages =
      std::span(tables_[slot]).first(static_cast<size_t>(positions / kKvPageSize));
  const auto added = std::count_if(pages.begin(), pages.end(),
                                   [this](int32_t page) { return keepers_[page] == 0; });
  if (kept_pages_ + added > max_kept_pages_) return false;
  kept_pages_ += added;
  for (const int32_t page : pages) {
    ++owners_[page];
    ++keepers_[page];
  }
  tables_[place].assign(pages.begin(), pages.end());
  return true;
}

void KvCache::Drop(int place) {
  for (const int32_t page : tables_[place]) {
    if (--keepers_[page] == 0) --kept_pages_;
  }
  Release(place);
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

// Paged keys and values of the full-attention layers. A page holds kKvPageSize positions of every
// full layer; a session's pages are all reserved when it is admitted, so it can never run out.
// Owned and called by the engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r {

struct KvShape {
  int layers = 0;    // full layers; 0: the cache is empty and every request fits
  int groups = 0;    // G
  int head_dim = 0;  // d
  DType dtype = DType::kFloat32;

  // Elements of one layer in a page: K then V, each [G, kKvPageSize, d].
  int64_t layer_elements() const { return 2LL * groups * kKvPageSize * head_dim; }
  int64_t page_bytes() const {
    return layers * layer_elements() * static_cast<int64_t>(SizeOf(dtype));
  }
};

class KvCache {
 public:
  // Behind the slots are `kept` places, [slots, slots + kept), for Keep, Drop and Fork's `from`
  // alone. They may own up to `kept_pages` pages together, which are there beside `pages`: what is
  // kept takes nothing from the slots.
  KvCache(Backend& backend, const KvShape& shape, int64_t pages, int slots, int kept = 0,
          int64_t kept_pages = 0);

  const KvShape& shape() const { return shape_; }
  int64_t pages() const { return pages_; }  // for the slots
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  static int64_t PagesFor(int64_t positions) { return (positions + kKvPageSize - 1) / kKvPageSize; }
  // Whether `count` slots could reserve so many each.
  bool CanReserve(int64_t positions, int count = 1) const;
  // Reserves pages for `positions` positions of a slot. False (and nothing changes) if too few.
  // clear: the pages are zeroed, so that Read shows nothing of whoever had them before.
  bool Reserve(int slot, int64_t positions, bool clear = false);
  void Release(int slot);
  std::span<const int32_t> table(int slot) const { return tables_[slot]; }

  // Gives `to` the first `positions` positions of `from`. Both have them reserved, and neither
  // writes to one of them any more, nor has `to` shared more positions than these. Pages that are
  // full of them are shared and those they replace become free; of the last one, where it is not
  // full, `to` gets a copy: it writes there next.
  void Fork(int from, int to, int64_t positions);

  // Lets a place that has none own a slot's first `positions` positions too, whole pages of them,
  // which the slot writes to no more. False, and nothing changes, where the kept ones would own
  // more than they may.
  bool Keep(int slot, int place, int64_t positions);
  void Drop(int place);
  // Different pages that kept places own.
  int64_t kept_pages() const { return kept_pages_; }

  // The pages that hold a slot's first `positions` positions, in order, to and from host memory:
  // ReadBytes(positions) of it.
  void Read(int slot, int64_t positions, std::byte* host) const;
  void Write(int slot, int64_t positions, const std::byte* host);
  int64_t ReadBytes(int64_t positions) const { return PagesFor(positions) * shape_.page_bytes(); }

  // The first page's part for a layer; add page · page_stride().
  void* layer(int full_layer) const {
    return static_cast<std::byte*>(buffer_.data()) +
           full_layer * shape_.layer_elements() * static_cast<int64_t>(SizeOf(shape_.dtype));
  }
  int64_t page_stride() const { return shape_.layers * shape_.layer_elements(); }  // elements

 private:
  std::byte* page(int32_t index) const {
    return static_cast<std::byte*>(buffer_.data()) + index * shape_.page_bytes();
  }
  // One owner less; without any the page is free.
  void Return(int32_t page);

  Backend& backend_;
  KvShape shape_;
  int64_t pages_ = 0;
  int64_t max_kept_pages_ = 0;
  int64_t kept_pages_ = 0;
  Buffer buffer_;
  std::vector<int32_t> free_;
  std::vector<int32_t> owners_;   // [all pages], 0: free
  std::vector<int32_t> keepers_;  // [all pages], of the owners the kept places
  std::vector<std::vector<int32_t>> tables_;
};

}  // namespace t2r

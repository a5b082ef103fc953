// Causal softmax attention over a paged key/value cache.
//
// The rows' keys and values are appended to the cache first, then each row attends to positions
// 0 … its own. The softmax reduces keys in blocks of kKvPageSize anchored at position 0, so a row's
// bits depend neither on its neighbours nor on how the prompt was split.
#pragma once

#include <cstdint>

#include "engine/ops/tensor.h"

namespace t2r {

struct FullAttentionArgs {
  int heads = 0;       // query heads H, a multiple of groups
  int groups = 0;      // key/value heads G
  int head_dim = 0;    // d
  float scale = 1.0F;  // multiplies q·k (1/√d)
  Tensor q;            // [T, H·d]
  Tensor k;            // [T, G·d]
  Tensor v;            // [T, G·d]
  Tensor out;          // [T, H·d]
  // This layer's part of every page: K, then V, G · kKvPageSize · d floats each, in an order of the
  // backend's own (the CPU: K [G, d, kKvPageSize], V [G, kKvPageSize, d]), at
  // pages + page · page_stride (in floats). Page p of a segment is
  // Batch::pages[segment.first_page + p] and holds positions p·kKvPageSize ….
  float* pages = nullptr;
  int64_t page_stride = 0;
};

}  // namespace t2r

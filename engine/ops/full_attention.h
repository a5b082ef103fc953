// Softmax attention over a paged key/value cache, and between the rows of a segment.
//
// Causal: the rows' keys and values are appended to the cache first, then each row attends to
// positions 0 … its own. The softmax reduces keys in blocks of kKvPageSize anchored at position 0,
// so a row's bits depend neither on its neighbours nor on how the prompt was split.
#pragma once

#include <cstdint>

#include "engine/ops/tensor.h"

namespace t2r {

enum class FullAttentionMode : uint8_t {
  kCausal,  // append k and v at the rows' positions, then attend up to each row's own
  kAppend,  // append only; q and out are not used (an encoder's outputs, for cross attention)
  kCross,   // attend to positions 0 … source_rows − 1 of Batch::source_pages; k, v are not used
};

struct FullAttentionArgs {
  FullAttentionMode mode = FullAttentionMode::kCausal;
  int heads = 0;       // query heads H, a multiple of groups
  int groups = 0;      // key/value heads G
  int head_dim = 0;    // d
  float scale = 1.0F;  // multiplies q·k (1/√d)
  Tensor q;            // [T, H·d]
  Tensor k;            // [T, G·d]
  Tensor v;            // [T, G·d]
  Tensor out;          // [T, H·d]
  // This layer's part of every page: K, then V, G · kKvPageSize · d elements each of pages_dtype,
  // in an order of the backend's own (the CPU: K [G, d, kKvPageSize], V [G, kKvPageSize, d]), at
  // pages
  // + page · page_stride (in elements). Page p of a segment is
  // Batch::pages[segment.first_page + p] and holds positions p·kKvPageSize …; for kCross
  // Batch::source_pages[segment.first_source_page + p].
  void* pages = nullptr;
  // float32 or bfloat16 on the CPU, which rounds to nearest even when it appends; on a device the
  // activations'.
  DType pages_dtype = DType::kFloat32;
  int64_t page_stride = 0;
};

// Each row attends to all rows of its segment (an encoder's self-attention); nothing is kept. A
// segment's bits do not depend on the others.
struct EncoderAttentionArgs {
  int heads = 0;
  int head_dim = 0;
  float scale = 1.0F;
  Tensor q, k, v;  // [T, heads · d]
  Tensor out;      // [T, heads · d]
};

}  // namespace t2r

// Softmax attention of some rows of a segment and one group, page by page with a running maximum
// (online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867).
//
// A page's keys lie [d, kKvPageSize], so the scores of its positions are chains over d that run
// side by side in vectors: no transposition, no sum across lanes.
#include <algorithm>
#include <cfloat>
#include <cstring>

#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/full_attention.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include "engine/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

// Positions of which a step of the score loop holds the accumulators in registers.
constexpr int64_t kChunk = std::min<int64_t>(kKvPageSize, 8 * kLanes);
constexpr int kVectors = static_cast<int>(kChunk / kLanes);

// scores[j] = q·k_j for the positions of a page, chunks of which there are none below n left out.
template <typename Element>
HWY_INLINE void Scores(const float* HWY_RESTRICT q, const Element* HWY_RESTRICT keys, int64_t dim,
                       int64_t n, float* HWY_RESTRICT scores) {
  const DF d;
  for (int64_t j = 0; j < n; j += kChunk) {
    VF sum[kVectors];
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) sum[c] = hn::Zero(d);
    for (int64_t i = 0; i < dim; ++i) {
      const VF value = hn::Set(d, q[i]);
      const Element* row = keys + i * kKvPageSize + j;
#pragma GCC unroll 16
      for (int c = 0; c < kVectors; ++c) {
        sum[c] = hn::MulAdd(value, LoadElements(d, row + c * kLanes), sum[c]);
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) hn::StoreU(sum[c], d, scores + j + c * kLanes);
  }
}

// What one row and head has gathered so far. y follows it in the scratch memory.
struct Running {
  float high;
  float sum;
};

// Takes in n positions of a page.
template <typename Element>
HWY_INLINE void TakePage(const float* q, const Element* keys, const Element* values, int64_t dim,
                         int64_t n, Running& running, float* HWY_RESTRICT y) {
  const DF d;
  HWY_ALIGN float weights[kKvPageSize];
  Scores(q, keys, dim, n, weights);
  // Positions after the row's own have taken part in no result but must not leave one here.
  for (int64_t j = n; j < kKvPageSize; ++j) weights[j] = weights[0];
  VF high = hn::Set(d, running.high);
  for (int64_t j = 0; j < kKvPageSize; j += kLanes) high = hn::Max(high, hn::Load(d, weights + j));
  high = hn::MaxOfLanes(d, high);
  const VF rescale = hn::Exp(d, hn::Sub(hn::Set(d, running.high), high));
  for (int64_t j = 0; j < kKvPageSize; j += kLanes) {
    hn::Store(hn::Exp(d, hn::Sub(hn::Load(d, weights + j), high)), d, weights + j);
  }
  for (int64_t j = n; j < kKvPageSize; ++j) weights[j] = 0.0F;
  VF sum = hn::Zero(d);
  for (int64_t j = 0; j < kKvPageSize; j += kLanes) sum = hn::Add(sum, hn::Load(d, weights + j));
  running.high = hn::GetLane(high);
  running.sum = running.sum * hn::GetLane(rescale) + Sum(sum);

  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
    VF part[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) part[c] = hn::Mul(hn::LoadU(d, y + i + c * kLanes), rescale);
    for (int64_t j = 0; j < n; ++j) {
      const VF weight = hn::Set(d, weights[j]);
      const Element* row = values + j * dim + i;
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        part[c] = hn::MulAdd(weight, LoadElements(d, row + c * kLanes), part[c]);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) hn::StoreU(part[c], d, y + i + c * kLanes);
  }
  ForVectors(dim - i, [&](int64_t c, auto io) HWY_ATTR {
    VF part = hn::Mul(hn::LoadU(d, y + i + c), rescale);
    for (int64_t j = 0; j < n; ++j) {
      part = hn::MulAdd(hn::Set(d, weights[j]), io.Load(values + j * dim + i + c), part);
    }
    hn::StoreU(part, d, y + i + c);
  });
}

// A row and head: Running, then the scaled query, then y.
int64_t RowFloats(const FullAttentionArgs& args) {
  return kLanes * 2 + 2 * RoundUpToLanes(args.head_dim) + 16;
}

int64_t ScratchFloats(const FullAttentionArgs& args) {
  return kAttentionRows * (args.heads / args.groups) * RowFloats(args);
}

template <typename Element>
void RunPages(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages,
              int32_t first, int32_t count, int group, float* scratch) {
  const DF d;
  const int64_t dim = args.head_dim;
  const int num_queries_per_kv = args.heads / args.groups;
  const int64_t page_elements = kKvPageSize * dim;
  const int64_t row_floats = RowFloats(args);
  const auto row_of = [&](int32_t r, int h) {
    return scratch + (r * num_queries_per_kv + h) * row_floats;
  };
  const int64_t query_at = 16;
  const int64_t y_at = query_at + RoundUpToLanes(dim);
  const int64_t first_head = static_cast<int64_t>(group) * num_queries_per_kv;

  for (int32_t r = 0; r < count; ++r) {
    for (int h = 0; h < num_queries_per_kv; ++h) {
      float* row = row_of(r, h);
      const Running start = {-FLT_MAX, 0.0F};
      std::memcpy(row, &start, sizeof(start));
      const float* q = args.q.f32_row(segment.first_row + first + r) + (first_head + h) * dim;
      ForVectors(dim, [&](int64_t i, auto io) HWY_ATTR {
        hn::StoreU(hn::Mul(io.Load(q + i), hn::Set(d, args.scale)), d, row + query_at + i);
        hn::StoreU(hn::Zero(d), d, row + y_at + i);
      });
    }
  }
  // Row r attends to the positions before first_end + r, or all to those of the source.
  const bool cross = args.mode == FullAttentionMode::kCross;
  const int64_t first_end = cross ? segment.source_rows : segment.position + first + 1;
  const int64_t last_end = cross ? first_end : first_end + count - 1;
  const int64_t last_page = (last_end - 1) / kKvPageSize;
  for (int64_t page = 0; page <= last_page; ++page) {
    const Element* keys = static_cast<const Element*>(args.pages) + pages[page] * args.page_stride +
                          group * page_elements;
    const Element* values = keys + args.groups * page_elements;
    for (int32_t r = 0; r < count; ++r) {
      const int64_t end = cross ? first_end : first_end + r;
      const int64_t n = std::min<int64_t>(kKvPageSize, end - page * kKvPageSize);
      if (n <= 0) continue;
      for (int h = 0; h < num_queries_per_kv; ++h) {
        float* row = row_of(r, h);
        Running running;
        std::memcpy(&running, row, sizeof(running));
        TakePage(row + query_at, keys, values, dim, n, running, row + y_at);
        std::memcpy(row, &running, sizeof(running));
      }
    }
  }
  for (int32_t r = 0; r < count; ++r) {
    for (int h = 0; h < num_queries_per_kv; ++h) {
      const float* row = row_of(r, h);
      Running running;
      std::memcpy(&running, row, sizeof(running));
      float* out = args.out.f32_row(segment.first_row + first + r) + (first_head + h) * dim;
      ForVectors(dim, [&](int64_t i, auto io) HWY_ATTR {
        io.Store(hn::Div(io.Load(row + y_at + i), hn::Set(d, running.sum)), out + i);
      });
    }
  }
}

void Run(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages, int32_t first,
         int32_t count, int group, float* scratch) {
  if (args.pages_dtype == DType::kBFloat16) {
    RunPages<uint16_t>(args, segment, pages, first, count, group, scratch);
  } else {
    RunPages<float>(args, segment, pages, first, count, group, scratch);
  }
}

}  // namespace

const FullAttentionKernels* FullAttentionTable() {
  static const FullAttentionKernels kTable = {ScratchFloats, Run};
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(FullAttentionTable);
const FullAttentionKernels& ChooseFullAttentionKernels() {
  return *HWY_DYNAMIC_DISPATCH(FullAttentionTable)();
}
}  // namespace t2r
#endif

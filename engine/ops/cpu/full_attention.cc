// Softmax attention of some rows of a segment and one group, page by page with a running maximum
// (online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867).
//
// A page's keys lie [d, kKvPageSize], so the scores of its positions are chains over d that run
// side by side in vectors: no transposition, no sum across lanes. A row's heads, and rows that see
// the same positions of a page, go through it together; none of their operations meet.
#include <algorithm>
#include <cfloat>
#include <cstring>

#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/full_attention.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include "engine/ops/cpu/window_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

// Vectors of positions whose scores of up to kHeads heads are summed side by side: as many as the
// registers hold, and a divisor of a page's.
constexpr int kPageVectors =
    static_cast<int>(std::min(kKvPageSize / kLanes, kLanes >= 16 ? 4L : 2L));

// What one row and head has gathered so far.
struct Running {
  float high;
  float sum;
};

// Where a row and head has its Running, its scaled query and its y, in floats; heads and rows
// follow each other.
struct Places {
  explicit Places(int64_t dim)
      : y(query + RoundUpToLanes(dim)), stride(y + RoundUpToLanes(dim) + 16) {}

  static constexpr int64_t query = 16;
  int64_t y;
  int64_t stride;
};

// y_h ← y_h · rescale[h] + Σ_j weights[h][j] values[j], in the positions' order, for V vectors of
// n values. Takes n steps of `fetch`.
template <class D, int V, int H, typename Element>
HWY_INLINE void AddValues(D d, const float* HWY_RESTRICT rescale,
                          const float (*HWY_RESTRICT weights)[kKvPageSize],
                          const Element* HWY_RESTRICT values, int64_t n, int64_t dim,
                          float* HWY_RESTRICT y, int64_t y_stride, Fetch& fetch) {
  constexpr int kLanesOfD = static_cast<int>(hn::MaxLanes(D()));
  hn::Vec<D> sum[H * V];
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      sum[h * V + v] =
          hn::Mul(hn::LoadU(d, y + h * y_stride + v * kLanesOfD), hn::Set(d, rescale[h]));
    }
  }
  const bool fetching = fetch.more();
  for (int64_t j = 0; j < n; ++j) {
    if (fetching) fetch.Step();
    AddRow<D, V, H>(d, weights[0] + j, kKvPageSize, values + j * dim, sum);
  }
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      hn::StoreU(sum[h * V + v], d, y + h * y_stride + v * kLanesOfD);
    }
  }
}

// A group's keys and values in a page.
template <typename Element>
struct Page {
  Element* keys = nullptr;
  Element* values = nullptr;
};

// Turns the scores of n positions into weights, with zeros behind them; returns by what the sums so
// far must be multiplied.
HWY_INLINE float TakeScores(int64_t n, float* HWY_RESTRICT weights, float* row) {
  const DF d;
  Running running;
  std::memcpy(&running, row, sizeof(running));
  // Positions after the row's own have taken part in no result but must not leave one here.
  for (int64_t j = n; j < kKvPageSize; ++j) weights[j] = weights[0];
  VF high = hn::Set(d, running.high);
  for (int64_t j = 0; j < kKvPageSize; j += kLanes) high = hn::Max(high, hn::Load(d, weights + j));
  high = hn::MaxOfLanes(d, high);
  const float rescale = hn::GetLane(hn::Exp(d, hn::Sub(hn::Set(d, running.high), high)));
  for (int64_t j = 0; j < kKvPageSize; j += kLanes) {
    hn::Store(hn::Exp(d, hn::Sub(hn::Load(d, weights + j), high)), d, weights + j);
  }
  for (int64_t j = n; j < kKvPageSize; ++j) weights[j] = 0.0F;
  VF sum = hn::Zero(d);
  for (int64_t j = 0; j < kKvPageSize; j += kLanes) sum = hn::Add(sum, hn::Load(d, weights + j));
  running.high = hn::GetLane(high);
  running.sum = running.sum * rescale + Sum(sum);
  std::memcpy(row, &running, sizeof(running));
  return rescale;
}

// Takes in n positions of a page for H heads or rows, the first at `rows`. `next` is fetched
// meanwhile where it is a page.
template <typename Element, int H>
HWY_NOINLINE void TakePage(const Page<Element>& page, const Page<Element>& next, int64_t dim,
                           int64_t n, const Places& at, float* rows) {
  constexpr int64_t kStep = kPageVectors * kLanes;
  HWY_ALIGN float weights[H][kKvPageSize];
  Fetch fetch;
  if (next.keys != nullptr) {
    const int64_t bytes = kKvPageSize * dim * static_cast<int64_t>(sizeof(Element));
    fetch.Add(next.keys, bytes);
    fetch.Add(next.values, bytes);
    fetch.Begin((n + kStep - 1) / kStep * dim + n * ColumnCalls(dim));
  }
  for (int64_t j = 0; j < n; j += kStep) {
    ScoreVectors<Element, H, kPageVectors>(rows + Places::query, at.stride, page.keys + j,
                                           kKvPageSize, dim, weights[0] + j, kKvPageSize, fetch);
  }
  float rescale[H];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h) rescale[h] = TakeScores(n, weights[h], rows + h * at.stride);
  ForColumns(dim, [&]<class D, int V>(D d, int64_t j) HWY_ATTR {
    AddValues<D, V, H>(d, rescale, weights, page.values + j, n, dim, rows + at.y + j, at.stride,
                       fetch);
  });
}

int64_t ScratchFloats(const FullAttentionArgs& args) {
  return kAttentionRows * (args.heads / args.groups) * Places(args.head_dim).stride;
}

template <typename Element>
Page<Element> PageOf(const FullAttentionArgs& args, int32_t page, int group) {
  const int64_t elements = kKvPageSize * args.head_dim;
  Element* keys = static_cast<Element*>(args.pages) + page * args.page_stride + group * elements;
  return {keys, keys + args.groups * elements};
}

template <typename Element>
void AppendRows(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages,
                int group) {
  const int64_t dim = args.head_dim;
  for (int32_t r = 0; r < segment.rows; ++r) {
    const int64_t position = segment.position + r;
    const int64_t place = position % kKvPageSize;
    const Page<Element> page = PageOf<Element>(args, pages[position / kKvPageSize], group);
    Element* keys = page.keys + place;
    Element* values = page.values + place * dim;
    const float* k = args.k.f32_row(segment.first_row + r) + group * dim;
    const float* v = args.v.f32_row(segment.first_row + r) + group * dim;
    for (int64_t i = 0; i < dim; ++i) keys[i * kKvPageSize] = ToElement<Element>(k[i]);
    for (int64_t i = 0; i < dim; ++i) values[i] = ToElement<Element>(v[i]);
  }
}

template <typename Element>
void RunPages(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages,
              int32_t first, int32_t count, int group, const FullAttentionNext& next,
              float* scratch) {
  const DF d;
  const int64_t dim = args.head_dim;
  const int num_queries_per_kv = args.heads / args.groups;
  const Places at(dim);
  const auto row_of = [&](int64_t r, int h) {
    return scratch + (r * num_queries_per_kv + h) * at.stride;
  };
  const int64_t first_head = static_cast<int64_t>(group) * num_queries_per_kv;

  for (int32_t r = 0; r < count; ++r) {
    for (int h = 0; h < num_queries_per_kv; ++h) {
      float* row = row_of(r, h);
      const Running start = {-FLT_MAX, 0.0F};
      std::memcpy(row, &start, sizeof(start));
      const float* q = args.q.f32_row(segment.first_row + first + r) + (first_head + h) * dim;
      ForVectors(dim, [&](int64_t i, auto io) HWY_ATTR {
        hn::StoreU(hn::Mul(io.Load(q + i), hn::Set(d, args.scale)), d, row + Places::query + i);
        hn::StoreU(hn::Zero(d), d, row + at.y + i);
      });
    }
  }
  // Row r attends to the positions before first_end + r, or all to those of the source.
  const bool cross = args.mode == FullAttentionMode::kCross;
  const int64_t first_end = cross ? segment.source_rows : segment.position + first + 1;
  const int64_t last_end = cross ? first_end : first_end + count - 1;
  const int64_t last_page = (last_end - 1) / kKvPageSize;
  // Positions of a page that row r sees.
  const auto seen = [&](int64_t page, int64_t r) {
    const int64_t end = cross ? first_end : first_end + r;
    return std::clamp<int64_t>(end - page * kKvPageSize, 0, kKvPageSize);
  };
  // By when the pages that it writes to have been fetched.
  const bool append = args.mode == FullAttentionMode::kCausal && AppendsItself(segment);
  for (int64_t page = 0; page <= last_page; ++page) {
    if (append && page == segment.position / kKvPageSize) {
      AppendRows<Element>(args, segment, pages, group);
    }
    const Page<Element> now = PageOf<Element>(args, pages[page], group);
    Page<Element> fetched;
    if (page < last_page) {
      fetched = PageOf<Element>(args, pages[page + 1], group);
    } else if (next.page >= 0) {
      fetched = PageOf<Element>(args, next.page, next.group);
    }
    for (int64_t r = 0; r < count;) {
      const int64_t n = seen(page, r);
      int64_t end = r + 1;
      while (end < count && seen(page, end) == n) ++end;
      const int64_t all = n == 0 ? 0 : (end - r) * num_queries_per_kv;
      for (int64_t i = 0; i < all; i += kHeads) {
        ForHeads(static_cast<int>(std::min<int64_t>(kHeads, all - i)), [&]<int H>() HWY_ATTR {
          TakePage<Element, H>(now, fetched, dim, n, at, row_of(r, 0) + i * at.stride);
        });
        fetched = {};
      }
      r = end;
    }
  }
  for (int32_t r = 0; r < count; ++r) {
    for (int h = 0; h < num_queries_per_kv; ++h) {
      const float* row = row_of(r, h);
      Running running;
      std::memcpy(&running, row, sizeof(running));
      float* out = args.out.f32_row(segment.first_row + first + r) + (first_head + h) * dim;
      ForVectors(dim, [&](int64_t i, auto io) HWY_ATTR {
        io.Store(hn::Div(io.Load(row + at.y + i), hn::Set(d, running.sum)), out + i);
      });
    }
  }
}

void Run(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages, int32_t first,
         int32_t count, int group, const FullAttentionNext& next, float* scratch) {
  if (args.pages_dtype == DType::kBFloat16) {
    RunPages<uint16_t>(args, segment, pages, first, count, group, next, scratch);
  } else {
    RunPages<float>(args, segment, pages, first, count, group, next, scratch);
  }
}

void Append(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages,
            int group) {
  if (args.pages_dtype == DType::kBFloat16) {
    AppendRows<uint16_t>(args, segment, pages, group);
  } else {
    AppendRows<float>(args, segment, pages, group);
  }
}

}  // namespace

const FullAttentionKernels* FullAttentionTable() {
  static const FullAttentionKernels kTable = {ScratchFloats, Append, Run};
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

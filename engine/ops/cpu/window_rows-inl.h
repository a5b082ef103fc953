// Scores and weighted sums over the rows of a window, of a page or of S, for one to four heads at
// once. Rows are float32, bfloat16 or 8-bit codes. Included once an instruction set.
#if defined(T2R_ENGINE_OPS_CPU_WINDOW_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef T2R_ENGINE_OPS_CPU_WINDOW_ROWS_INL_H_
#undef T2R_ENGINE_OPS_CPU_WINDOW_ROWS_INL_H_
#else
#define T2R_ENGINE_OPS_CPU_WINDOW_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "engine/ops/cpu/ahead.h"
#include "engine/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {

// Heads that share a pass over keys, values and centroids.
inline constexpr int kHeads = 4;
// Vectors of scores of each head that are summed side by side: as many as the registers hold.
inline constexpr int kScoreVectors = kLanes >= 16 ? 5 : 2;

// Calls fn.template operator()<H>() for H = heads, 1 to kHeads.
template <typename Fn>
HWY_INLINE void ForHeads(int heads, const Fn& fn) {
  switch (heads) {
    case 1:
      return fn.template operator()<1>();
    case 2:
      return fn.template operator()<2>();
    case 3:
      return fn.template operator()<3>();
    default:
      return fn.template operator()<4>();
  }
}

// ---- What comes next ----

// Ranges of memory, one after the other, as Ahead fetches one.
class Fetch {
 public:
  void Add(const void* begin, int64_t bytes) {
    if (bytes <= 0) return;
    ranges_[count_++] = {begin, bytes};
    bytes_ += bytes;
  }
  // To be called once all are added: they are to be fetched in about `steps` steps.
  void Begin(int64_t steps) { step_ = Ahead::StepFor(bytes_, std::max<int64_t>(steps, 1)); }
  // Whether anything is left: asked before a loop, so that one with nothing to fetch takes no
  // steps.
  bool more() const { return !now_.done() || next_ < count_; }
  HWY_INLINE void Step() {
    if (now_.done()) {
      if (next_ == count_) return;
      now_ = Ahead(ranges_[next_].begin, ranges_[next_].bytes, step_);
      ++next_;
    }
    now_.Step();
  }

 private:
  struct Range {
    const void* begin;
    int64_t bytes;
  };
  Range ranges_[4];
  int count_ = 0;
  int next_ = 0;
  int64_t bytes_ = 0;
  int64_t step_ = 0;
  Ahead now_;
};

// ---- Scores ----

// scores[h][c] = q_h · k_c for V vectors of columns of a block [dim, width] of keys. Takes dim
// steps of `fetch`.
template <typename Element, int H, int V>
HWY_INLINE void ScoreVectors(const float* HWY_RESTRICT q, int64_t q_stride,
                             const Element* HWY_RESTRICT keys, int64_t width, int64_t dim,
                             float* HWY_RESTRICT scores, int64_t score_stride, Fetch& fetch) {
  const DF d;
  VF sum[H * V];
#pragma GCC unroll 32
  for (int i = 0; i < H * V; ++i) sum[i] = hn::Zero(d);
  const bool fetching = fetch.more();
  for (int64_t i = 0; i < dim; ++i) {
    if (fetching) fetch.Step();
    VF key[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) key[v] = LoadElements(d, keys + i * width + v * kLanes);
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h) {
      const VF value = hn::Set(d, q[h * q_stride + i]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[h * V + v] = hn::MulAdd(value, key[v], sum[h * V + v]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      hn::StoreU(sum[h * V + v], d, scores + h * score_stride + v * kLanes);
    }
  }
}

// Steps of the fetching that ScoreBlock takes, at least.
constexpr int64_t ScoreSteps(int64_t width, int64_t dim) {
  constexpr int64_t kStep = kScoreVectors * kLanes;
  return (width + kStep - 1) / kStep * dim;
}

// The scores of all columns of a block, in whole vectors: reads and writes up to a vector, less one
// element, beyond it.
template <typename Element, int H>
HWY_INLINE void ScoreBlock(const float* q, int64_t q_stride, const Element* keys, int64_t width,
                           int64_t dim, float* scores, int64_t score_stride, Fetch& fetch) {
  const int64_t end = RoundUpToLanes(width);
  int64_t c = 0;
  const auto run = [&]<int V>() HWY_ATTR {
    for (; end - c >= V * kLanes; c += V * kLanes) {
      ScoreVectors<Element, H, V>(q, q_stride, keys + c, width, dim, scores + c, score_stride,
                                  fetch);
    }
  };
  run.template operator()<kScoreVectors>();
  if constexpr (kScoreVectors > 3) run.template operator()<3>();
  if constexpr (kScoreVectors > 2) run.template operator()<2>();
  run.template operator()<1>();
}

// ---- Weighted sums ----

// sum[h] += weights[h · weight_stride] row, for V vectors of a row.
template <class D, int V, int H, typename Element>
HWY_INLINE void AddRow(D d, const float* HWY_RESTRICT weights, int64_t weight_stride,
                       const Element* HWY_RESTRICT row, hn::Vec<D>* HWY_RESTRICT sum) {
  hn::Vec<D> value[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    value[v] = LoadElements(d, row + v * static_cast<int64_t>(hn::MaxLanes(D())));
  }
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
    const auto weight = hn::Set(d, weights[h * weight_stride]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[h * V + v] = hn::MulAdd(weight, value[v], sum[h * V + v]);
  }
}

// y_h += Σ_r weights[h][r] rows[r] for V vectors of a row. Where there are few sums, rows go to
// several in turn, so that one does not wait for the other. Takes a step of `fetch` a row.
template <class D, int V, int H, typename Element>
HWY_INLINE void WeightedVectors(D d, const float* HWY_RESTRICT weights, int64_t weight_stride,
                                const Element* HWY_RESTRICT rows, int64_t count, int64_t stride,
                                float* HWY_RESTRICT y, int64_t y_stride, Fetch& fetch) {
  constexpr int kLanesOfD = static_cast<int>(hn::MaxLanes(D()));
  constexpr int kTurns = H * V >= 8 ? 1 : H * V >= 4 ? 2 : 4;
  hn::Vec<D> sum[kTurns * H * V];
#pragma GCC unroll 32
  for (int i = 0; i < kTurns * H * V; ++i) sum[i] = hn::Zero(d);
  const bool fetching = fetch.more();
  const auto take = [&](int64_t r, int turn) HWY_ATTR {
    if (fetching) fetch.Step();
    AddRow<D, V, H>(d, weights + r, weight_stride, rows + r * stride, sum + turn * H * V);
  };
  int64_t r = 0;
  for (; r + kTurns <= count; r += kTurns) {
#pragma GCC unroll 4
    for (int turn = 0; turn < kTurns; ++turn) take(r + turn, turn);
  }
  for (; r < count; ++r) take(r, 0);
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      auto total = hn::LoadU(d, y + h * y_stride + v * kLanesOfD);
#pragma GCC unroll 4
      for (int turn = 0; turn < kTurns; ++turn) {
        total = hn::Add(total, sum[(turn * H + h) * V + v]);
      }
      hn::StoreU(total, d, y + h * y_stride + v * kLanesOfD);
    }
  }
}

// Calls run.template operator()<D, V>(D(), j) for the columns [j, j + V vectors of D) that rows of
// `dim` elements consist of: the widest first, and nothing beyond the rows.
inline constexpr int kColumnVectors = kLanes >= 16 ? 4 : 2;
template <typename Fn>
HWY_INLINE void ForColumns(int64_t dim, const Fn& run) {
  int64_t j = 0;
  const auto take = [&]<class D, int V>(D d) HWY_ATTR {
    constexpr int64_t kStep = V * static_cast<int64_t>(hn::MaxLanes(D()));
    for (; dim - j >= kStep; j += kStep) run.template operator()<D, V>(d, j);
  };
  take.template operator()<DF, kColumnVectors>(DF());
  take.template operator()<DF, 1>(DF());
  take.template operator()<hn::CappedTag<float, 8>, 1>(hn::CappedTag<float, 8>());
  take.template operator()<hn::CappedTag<float, 4>, 1>(hn::CappedTag<float, 4>());
  take.template operator()<hn::CappedTag<float, 1>, 1>(hn::CappedTag<float, 1>());
}

// How often ForColumns calls, at least.
constexpr int64_t ColumnCalls(int64_t dim) {
  return std::max<int64_t>(1, dim / (kColumnVectors * kLanes));
}

// WeightedVectors for whole rows of `dim` elements; reads nothing beyond them.
template <typename Element>
HWY_INLINE void WeightedRows(int heads, const float* weights, int64_t weight_stride,
                             const Element* rows, int64_t count, int64_t dim, float* y,
                             int64_t y_stride, Fetch& fetch) {
  ForHeads(heads, [&]<int H>() HWY_ATTR {
    ForColumns(dim, [&]<class D, int V>(D d, int64_t j) HWY_ATTR {
      WeightedVectors<D, V, H>(d, weights, weight_stride, rows + j, count, dim, y + j, y_stride,
                               fetch);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();
#endif

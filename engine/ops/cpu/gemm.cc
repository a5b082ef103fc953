// x Wᵀ over packed weights.
//
// An output element is one chain acc = fma(x[k], w[k], acc) over k = 0 … K − 1 from acc = 0, then
// + bias, then + out. Tiles of rows and panels only choose which chains run side by side, and a
// chain parked in memory between two blocks of K is parked exactly: the bits of an element depend
// on its row and its weights alone.
#include <algorithm>
#include <cstring>

#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/gemm.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using DF = hn::ScalableTag<float>;
#else
using DF = hn::CappedTag<float, 16>;
#endif
using DU = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
constexpr int kPanel = 2 * kLanes;
// Rows of the largest tile: two vectors a row of accumulators, and room for the operands.
constexpr int kMaxRows = HWY_TARGET <= HWY_AVX3 ? 12 : 6;
// Input features of a block at most: a panel's block and a tile's rows stay in the first-level
// cache over all tiles.
constexpr int64_t kBlock = 320;

// How many panels a tile of `rows` rows takes, to have enough independent chains in flight.
constexpr int PanelsFor(int rows) { return std::max(1, std::min(4, kMaxRows / rows)); }
constexpr PanelsAtOnce kAtOnce = {kMaxRows / PanelsFor(1), PanelsFor(1), 1};
static_assert(kAtOnce.few_rows <= kMaxRows);  // they are one tile: panels a step apart

template <bool kBf16>
constexpr int64_t kPanelBytes = kPanel*(kBf16 ? 2 : 4);  // of one input feature

template <bool kBf16>
HWY_INLINE void LoadWeights(const char* p, VF& low, VF& high) {
  const DF df;
  if constexpr (kBf16) {
    const DU du;
    const auto words = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
    low = hn::BitCast(df, hn::ShiftLeft<16>(words));
    high = hn::BitCast(df, hn::And(words, hn::Set(du, 0xffff0000U)));
  } else {
    low = hn::LoadU(df, reinterpret_cast<const float*>(p));
    high = hn::LoadU(df, reinterpret_cast<const float*>(p) + kLanes);
  }
}

// Continues the chains of R rows × P panels, step_bytes apart, over `count` input features; acc [P,
// R, kPanel].
template <int R, int P, bool kBf16>
HWY_INLINE void Tile(const float* HWY_RESTRICT x, int64_t x_stride, const char* HWY_RESTRICT w,
                     int64_t step_bytes, int64_t count, bool first, float* HWY_RESTRICT acc) {
  const DF df;
  VF low[P][R];
  VF high[P][R];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      low[p][r] = hn::Zero(df);
      high[p][r] = hn::Zero(df);
      if (!first) {
        low[p][r] = hn::LoadU(df, acc + (p * R + r) * kPanel);
        high[p][r] = hn::LoadU(df, acc + (p * R + r) * kPanel + kLanes);
      }
    }
  }
  for (int64_t k = 0; k < count; ++k) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      VF w_low;
      VF w_high;
      LoadWeights<kBf16>(w + p * step_bytes + k * kPanelBytes<kBf16>, w_low, w_high);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const VF value = hn::Set(df, x[r * x_stride + k]);
        low[p][r] = hn::MulAdd(value, w_low, low[p][r]);
        high[p][r] = hn::MulAdd(value, w_high, high[p][r]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      hn::StoreU(low[p][r], df, acc + (p * R + r) * kPanel);
      hn::StoreU(high[p][r], df, acc + (p * R + r) * kPanel + kLanes);
    }
  }
}

// The finished chains of one row and panel into the output.
HWY_INLINE void Finish(const GemmTask& task, int64_t row, int64_t panel, const float* acc) {
  const DF df;
  const int64_t first = panel * kPanel;
  const int64_t count = std::min<int64_t>(kPanel, task.n - first);
  float* out = task.out + row * task.out_stride + first;
  // The last panel may be partial: its bias, residual and result pass through whole vectors too.
  HWY_ALIGN float bias[kPanel] = {};
  HWY_ALIGN float result[kPanel] = {};
  if (task.bias != nullptr) std::memcpy(bias, task.bias + first, count * sizeof(float));
  if (task.accumulate) std::memcpy(result, out, count * sizeof(float));
  for (int64_t i = 0; i < kPanel; i += kLanes) {
    auto v = hn::LoadU(df, acc + i);
    if (task.bias != nullptr) v = hn::Add(v, hn::Load(df, bias + i));
    if (task.accumulate) v = hn::Add(hn::Load(df, result + i), v);
    hn::Store(v, df, result + i);
  }
  std::memcpy(out, result, count * sizeof(float));
}

// One block of K for a tile of R rows over the task's panels. acc holds the tile's chains,
// [panels, R, kPanel].
template <int R, bool kBf16>
void TileRow(const GemmTask& task, int64_t row, int64_t k, int64_t count, float* acc) {
  constexpr int kP = PanelsFor(R);
  const float* x = task.x + row * task.x_stride + k;
  const int64_t panel_bytes = task.cols * kPanelBytes<kBf16>;
  const char* w = static_cast<const char*>(task.panels) + k * kPanelBytes<kBf16>;
  const int64_t step_bytes = task.panel_step * panel_bytes;
  w += task.first_panel * panel_bytes;
  int64_t left = task.panel_count;
  for (; left >= kP; left -= kP) {
    Tile<R, kP, kBf16>(x, task.x_stride, w, step_bytes, count, k == 0, acc);
    w += kP * step_bytes;
    acc += kP * R * kPanel;
  }
  for (; left > 0; --left) {
    Tile<R, 1, kBf16>(x, task.x_stride, w, step_bytes, count, k == 0, acc);
    w += step_bytes;
    acc += R * kPanel;
  }
}

template <int R, bool kBf16>
void DispatchTile(const GemmTask& task, int64_t rows, int64_t row, int64_t k, int64_t count,
                  float* acc) {
  if constexpr (R > 0) {
    if (rows == R) return TileRow<R, kBf16>(task, row, k, count, acc);
    DispatchTile<R - 1, kBf16>(task, rows, row, k, count, acc);
  }
}

template <bool kBf16>
void RunTask(const GemmTask& task) {
  const int64_t rows = task.end_row - task.first_row;
  const int64_t panels = task.panel_count;
  const int64_t tiles = (rows + kMaxRows - 1) / kMaxRows;
  const auto row_of = [&](int64_t tile) { return task.first_row + rows * tile / tiles; };
  // Blocks of K pay when several tiles share a panel's block.
  const int64_t blocks = tiles > 2 ? (task.cols + kBlock - 1) / kBlock : 1;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t k = task.cols * b / blocks;
    const int64_t count = task.cols * (b + 1) / blocks - k;
    if (tiles == 1) {
      DispatchTile<kMaxRows, kBf16>(task, rows, task.first_row, k, count, task.scratch);
      continue;
    }
    for (int64_t p = 0; p < panels; ++p) {
      GemmTask one = task;
      one.first_panel = task.first_panel + p;
      one.panel_count = 1;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t row = row_of(tile);
        DispatchTile<kMaxRows, kBf16>(one, row_of(tile + 1) - row, row, k, count,
                                      task.scratch + (p * rows + row - task.first_row) * kPanel);
      }
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t r = 0; r < rows; ++r) {
      Finish(task, task.first_row + r, task.first_panel + p * task.panel_step,
             task.scratch + (p * rows + r) * kPanel);
    }
  }
}

void Run(const GemmTask& task) {
  if (task.bfloat16) return RunTask<true>(task);
  RunTask<false>(task);
}

}  // namespace

const GemmKernels* GemmTable() {
  static const GemmKernels kTable = {hwy::TargetName(HWY_TARGET), kPanel, kAtOnce, Run};
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(GemmTable);
const GemmKernels& ChooseGemmKernels() { return *HWY_DYNAMIC_DISPATCH(GemmTable)(); }
}  // namespace t2r
#endif

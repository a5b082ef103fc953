// The products' loops over one instruction set. No include guard: each .cc of a set includes it
// inside the set's namespace, below the attributes that name the set to the compiler, so that every
// function here is compiled for it.
//
// Isa has types Floats and Pairs of 16 lanes and
//   Dot         a lane's sum and the two products of its pairs, as bf16_gemm/kernels.h says
//   RoundPairs  32 floats to 16 pairs
// with what its names say of the rest. T2R_UNROLL stands before the loops over what is in
// registers.

constexpr int kTileRows = 12;  // two vectors a row: 24 of 32 registers
// Panels of a tile of few rows, to have enough independent chains and memory requests in flight.
constexpr int PanelsFor(int rows) {
  return kTileRows / rows < 1 ? 1 : (kTileRows / rows < 4 ? kTileRows / rows : 4);
}

#include "engine/ops/cpu/ahead-inl.h"
#include "engine/ops/cpu/finish-inl.h"

// Pairs of input features with which the tiles fetch ahead once.
constexpr int64_t kAheadPairs = 4;
constexpr PanelsAtOnce kAtOnce = {kTileRows / PanelsFor(1), PanelsFor(1), 1, kShareRows};
static_assert(kAtOnce.few_rows <= kTileRows);  // they are one tile: panels a step apart

// What follows `count` panels from `panel` on, to be fetched in `tiles` tiles.
HWY_INLINE Ahead AfterPanels(const Bf16GemmTask& task, int64_t panel, int64_t count,
                             int64_t tiles) {
  constexpr int64_t kWordBytes = sizeof(uint32_t);
  return AfterPanels(task, task.panels, task.pairs * kPairPanel * kWordBytes, panel, count,
                     tiles * ((task.pairs + kAheadPairs - 1) / kAheadPairs));
}

// R rows × P panels `step` apart, finished. What `ahead` names is fetched beside.
template <class Isa, int R, int P>
HWY_NOINLINE void Tile(const Bf16GemmTask& task, int64_t row, int64_t panel, int64_t step,
                       Ahead* ahead) {
  constexpr int64_t kPairBytes = sizeof(uint32_t);
  const int64_t panel_words = task.pairs * kPairPanel;
  const int64_t step_words = step * panel_words;
  const uint32_t* w = task.panels + panel * panel_words;
  RowPointers<R> x(task.x + row * task.x_stride, task.x_stride * kPairBytes);
  FetchOutputs<P, R>(task, row, panel * kPairPanel, step * kPairPanel, kPairPanel);
  typename Isa::Floats sums[P][R][2];
  T2R_UNROLL
  for (int p = 0; p < P; ++p) {
    T2R_UNROLL
    for (int r = 0; r < R; ++r) {
      sums[p][r][0] = Isa::SetFloats(0.0F);
      sums[p][r][1] = Isa::SetFloats(0.0F);
    }
  }
  for (int64_t pairs = task.pairs; pairs > 0; pairs -= kAheadPairs) {
    ahead->Step();
    for (int64_t i = pairs < kAheadPairs ? pairs : kAheadPairs; i > 0; --i) {
      T2R_UNROLL
      for (int p = 0; p < P; ++p) {
        const auto first = Isa::LoadPairs(w + p * step_words);
        const auto second = Isa::LoadPairs(w + p * step_words + 16);
        T2R_UNROLL
        for (int r = 0; r < R; ++r) {
          const auto input = Isa::Broadcast(*reinterpret_cast<const uint32_t*>(x[r]));
          sums[p][r][0] = Isa::Dot(sums[p][r][0], first, input);
          sums[p][r][1] = Isa::Dot(sums[p][r][1], second, input);
        }
      }
      w += kPairPanel;
      x.Advance(kPairBytes);
    }
  }
  FinishTile<Isa>(task, row, panel * kPairPanel, step * kPairPanel, sums);
}

// R rows over `panels` panels from `panel` on, as many at a time as R leaves registers for. ahead:
// null where these are all rows of the task.
template <class Isa, int R>
void DispatchRows(const Bf16GemmTask& task, int64_t rows, int64_t row, int64_t panel,
                  int64_t panels, Ahead* ahead) {
  if constexpr (R > 0) {
    if (rows != R) return DispatchRows<Isa, R - 1>(task, rows, row, panel, panels, ahead);
    ForPanels<PanelsFor(R), R <= kAtOnce.few_rows>(
        task, panel, panels, ahead,
        [&](int64_t first, int64_t count) { return AfterPanels(task, first, count, 1); },
        [&](int64_t first, auto count, Ahead* beside) {
          Tile<Isa, R, decltype(count)::value>(task, row, first, task.panel_step, beside);
        });
  }
}

template <class Isa>
void RunBf16(const Bf16GemmTask& task) {
  const int64_t rows = task.end_row - task.first_row;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  if (tiles <= 1) {
    return DispatchRows<Isa, kTileRows>(task, rows, task.first_row, task.first_panel,
                                        task.panel_count, nullptr);
  }
  // A panel stays in the second level over all tiles of rows, which stay there too: K is never cut.
  for (int64_t i = 0; i < task.panel_count; ++i) {
    const int64_t panel = task.first_panel + i;
    Ahead ahead = AfterPanels(task, panel, 1, tiles);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = task.first_row + rows * tile / tiles;
      const int64_t next = task.first_row + rows * (tile + 1) / tiles;
      DispatchRows<Isa, kTileRows>(task, next - row, row, panel, 1, &ahead);
    }
  }
}

template <class Isa>
void RoundRow(const float* x, int64_t cols, uint32_t* pairs) {
  const int64_t whole = cols / 32;
  for (int64_t i = 0; i < whole; ++i) Isa::RoundPairs(x + 32 * i, pairs + 16 * i);
  if (cols % 32 == 0) return;
  alignas(64) float rest[32] = {};
  alignas(64) uint32_t rounded[16];
  __builtin_memcpy(rest, x + 32 * whole, static_cast<size_t>(cols % 32) * sizeof(float));
  Isa::RoundPairs(rest, rounded);
  __builtin_memcpy(pairs + 16 * whole, rounded,
                   static_cast<size_t>(PairsOf(cols % 32)) * sizeof(uint32_t));
}

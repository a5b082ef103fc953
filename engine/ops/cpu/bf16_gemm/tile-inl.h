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

#include "engine/ops/cpu/finish-inl.h"

// R rows × P panels, finished.
template <class Isa, int R, int P>
HWY_NOINLINE void Tile(const Bf16GemmTask& task, int64_t row, int64_t panel) {
  const int64_t panel_words = task.pairs * kPairPanel;
  const uint32_t* w = task.panels + panel * panel_words;
  const uint32_t* x = task.x + row * task.x_stride;
  typename Isa::Floats sums[P][R][2];
  T2R_UNROLL
  for (int p = 0; p < P; ++p) {
    T2R_UNROLL
    for (int r = 0; r < R; ++r) {
      sums[p][r][0] = Isa::SetFloats(0.0F);
      sums[p][r][1] = Isa::SetFloats(0.0F);
    }
  }
  for (int64_t i = 0; i < task.pairs; ++i) {
    T2R_UNROLL
    for (int p = 0; p < P; ++p) {
      const auto first = Isa::LoadPairs(w + p * panel_words + i * kPairPanel);
      const auto second = Isa::LoadPairs(w + p * panel_words + i * kPairPanel + 16);
      T2R_UNROLL
      for (int r = 0; r < R; ++r) {
        const auto input = Isa::Broadcast(x[r * task.x_stride + i]);
        sums[p][r][0] = Isa::Dot(sums[p][r][0], first, input);
        sums[p][r][1] = Isa::Dot(sums[p][r][1], second, input);
      }
    }
  }
  T2R_UNROLL
  for (int p = 0; p < P; ++p) {
    T2R_UNROLL
    for (int r = 0; r < R; ++r) {
      Finish<Isa>(task, row + r, (panel + p) * kPairPanel, sums[p][r]);
    }
  }
}

// R rows over panels [panel, end), as many at a time as R leaves registers for.
template <class Isa, int R>
void DispatchRows(const Bf16GemmTask& task, int64_t rows, int64_t row, int64_t panel, int64_t end) {
  if constexpr (R > 0) {
    if (rows != R) return DispatchRows<Isa, R - 1>(task, rows, row, panel, end);
    constexpr int kP = PanelsFor(R);
    for (; panel + kP <= end; panel += kP) Tile<Isa, R, kP>(task, row, panel);
    for (; panel < end; ++panel) Tile<Isa, R, 1>(task, row, panel);
  }
}

template <class Isa>
void RunBf16(const Bf16GemmTask& task) {
  const int64_t rows = task.end_row - task.first_row;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  // A panel stays in the second level over all tiles of rows, which stay there too: K is never cut.
  const int64_t step = tiles > 1 ? 1 : task.end_panel - task.first_panel;
  for (int64_t panel = task.first_panel; panel < task.end_panel; panel += step) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = task.first_row + rows * tile / tiles;
      const int64_t next = task.first_row + rows * (tile + 1) / tiles;
      DispatchRows<Isa, kTileRows>(task, next - row, row, panel, panel + step);
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

// The products' loops over one instruction set. No include guard: each .cc of a set includes it
// inside the set's namespace, below the attributes that name the set to the compiler, so that every
// function here is compiled for it.
//
// Isa has types Ints and Floats of 16 lanes, Input (4 activations in every lane), Codes8 and Codes4
// (what a block of codes is in registers), and
//   kAccumulators            sums of 16 lanes that fit the registers beside the operands
//   kSigned8                 whether Dot8 takes 128 off the codes by itself
//   Dot8, Dot4               sums + Σ over a lane's 4 codes and activations
//   NextByte                 256 · sums + a number
// with what its names say of the rest. T2R_UNROLL stands before the loops over what is in
// registers.

#include "engine/ops/cpu/finish-inl.h"

// A group's sums of one row and panel, scaled, onto what the groups before left: the sequence that
// int_gemm/kernels.h says, in which all sets agree. minimum: int4's.
template <class Isa, bool kInt4>
HWY_INLINE void AddGroup(typename Isa::Floats scale, typename Isa::Floats minimum,
                         const ActivationGroup& group, typename Isa::Ints sums,
                         typename Isa::Floats* out) {
  const auto both = Isa::Mul(scale, Isa::SetFloats(group.scale));
  *out = Isa::Add(*out, Isa::Mul(both, Isa::ToFloats(sums)));
  if constexpr (kInt4) {
    *out = Isa::Add(*out, Isa::Mul(minimum, Isa::SetFloats(group.scaled_sum)));
  }
}

// R rows × P panels, finished.
template <class Isa, bool kInt4, int kPlanes, int R, int P>
HWY_INLINE void Tile(const IntGemmTask& task, int64_t row, int64_t panel) {
  constexpr int64_t kGroupCodes = kIntPanel * kQuantGroup / (kInt4 ? 2 : 1);
  constexpr int64_t kGroupScales = kIntPanel * (kInt4 ? 2 : 1);
  constexpr int kBlocks = kQuantGroup / 4;
  const uint8_t* base = task.panels + panel * task.panel_bytes;
  const int8_t* x = task.x + row * task.x_stride;
  constexpr int64_t kInputs = kPlanes * kQuantGroup;  // bytes of a group
  constexpr bool kOffset = !kInt4 && !Isa::kSigned8;  // goes in with the last plane
  const ActivationGroup* x_groups = task.x_groups + row * task.groups;
  typename Isa::Floats out[P][R];
  T2R_UNROLL
  for (int p = 0; p < P; ++p) {
    T2R_UNROLL
    for (int r = 0; r < R; ++r) out[p][r] = Isa::SetFloats(0.0F);
  }
  for (int64_t g = 0; g < task.groups; ++g) {
    typename Isa::Ints sums[P][R];
    T2R_UNROLL
    for (int r = 0; r < R; ++r) {
      T2R_UNROLL
      for (int p = 0; p < P; ++p) {
        sums[p][r] =
            Isa::SetInts(kOffset && kPlanes == 1 ? x_groups[r * task.groups + g].offset : 0);
      }
    }
    const uint8_t* codes = base + task.codes_offset + g * kGroupCodes;
    if constexpr (R == 1) {
      // A panel is too short for the processor's own prefetching to get going: the same group of
      // the next panels, into the second level. Beyond the last panel a prefetch does nothing.
      const uint8_t* next = codes + P * task.panel_bytes;
      for (int p = 0; p < P; ++p) {
        for (int64_t i = 0; i < kGroupCodes; i += 64) {
          __builtin_prefetch(next + p * task.panel_bytes + i, 0, 2);
        }
      }
    }
    // With two planes the sums of the upper bytes, times 256, then those of the lower ones: codes
    // come from memory once and from the first cache again.
#pragma GCC unroll 1
    for (int byte = 0; byte < kPlanes; ++byte) {
      const int8_t* inputs = x + g * kInputs + byte * kQuantGroup;
      if (byte == 1) {
        T2R_UNROLL
        for (int r = 0; r < R; ++r) {
          const int32_t offset = kOffset ? x_groups[r * task.groups + g].offset : 0;
          T2R_UNROLL
          for (int p = 0; p < P; ++p) sums[p][r] = Isa::NextByte(sums[p][r], offset);
        }
      }
      if constexpr (kInt4) {
        for (int b = 0; b < kBlocks / 2; ++b) {
          typename Isa::Codes4 low[P];
          typename Isa::Codes4 high[P];
          T2R_UNROLL
          for (int p = 0; p < P; ++p) {
            Isa::Load4(codes + p * task.panel_bytes + b * 64, low[p], high[p]);
          }
          T2R_UNROLL
          for (int r = 0; r < R; ++r) {
            const auto first = Isa::Broadcast(inputs + r * task.x_stride + b * 4);
            const auto second = Isa::Broadcast(inputs + r * task.x_stride + (b + kBlocks / 2) * 4);
            T2R_UNROLL
            for (int p = 0; p < P; ++p) {
              sums[p][r] = Isa::Dot4(Isa::Dot4(sums[p][r], low[p], first), high[p], second);
            }
          }
        }
      } else {
        for (int b = 0; b < kBlocks; ++b) {
          typename Isa::Codes8 block[P];
          T2R_UNROLL
          for (int p = 0; p < P; ++p) block[p] = Isa::Load8(codes + p * task.panel_bytes + b * 64);
          T2R_UNROLL
          for (int r = 0; r < R; ++r) {
            const auto input = Isa::Broadcast(inputs + r * task.x_stride + b * 4);
            T2R_UNROLL
            for (int p = 0; p < P; ++p) sums[p][r] = Isa::Dot8(sums[p][r], block[p], input);
          }
        }
      }
    }
    T2R_UNROLL
    for (int p = 0; p < P; ++p) {
      const auto* scales =
          reinterpret_cast<const uint16_t*>(base + p * task.panel_bytes) + g * kGroupScales;
      const auto scale = Isa::Widen(scales);
      const auto minimum = kInt4 ? Isa::Widen(scales + kIntPanel) : scale;
      T2R_UNROLL
      for (int r = 0; r < R; ++r) {
        AddGroup<Isa, kInt4>(scale, minimum, x_groups[r * task.groups + g], sums[p][r], &out[p][r]);
      }
    }
  }
  T2R_UNROLL
  for (int p = 0; p < P; ++p) {
    T2R_UNROLL
    for (int r = 0; r < R; ++r) {
      Finish<Isa>(task, row + r, (panel + p) * kIntPanel, {out[p][r]});
    }
  }
}

// R rows over panels [panel, end), P at a time.
template <class Isa, bool kInt4, int kPlanes, int R, int P>
void TilePanels(const IntGemmTask& task, int64_t row, int64_t panel, int64_t end) {
  for (; panel + P <= end; panel += P) Tile<Isa, kInt4, kPlanes, R, P>(task, row, panel);
  for (; panel < end; ++panel) Tile<Isa, kInt4, kPlanes, R, 1>(task, row, panel);
}

template <class Isa>
struct TileShape {
  static constexpr int kMaxRows = Isa::kAccumulators < 6 ? Isa::kAccumulators : 6;
  // Of many rows: weights in registers are used for all rows of a tile, activations for all panels.
  static constexpr int kManyPanels = Isa::kAccumulators / kMaxRows;
  // Of few rows, more panels keep more independent sums and more memory requests in flight.
  static constexpr int FewPanels(int rows) {
    return Isa::kAccumulators / rows < 4 ? Isa::kAccumulators / rows : 4;
  }
};

template <class Isa, bool kInt4, int kPlanes, bool kMany, int R>
void DispatchRows(const IntGemmTask& task, int64_t rows, int64_t row, int64_t panel, int64_t end) {
  if constexpr (R > 0) {
    constexpr int kP = kMany ? TileShape<Isa>::kManyPanels : TileShape<Isa>::FewPanels(R);
    if (rows == R) return TilePanels<Isa, kInt4, kPlanes, R, kP>(task, row, panel, end);
    DispatchRows<Isa, kInt4, kPlanes, kMany, R - 1>(task, rows, row, panel, end);
  }
}

template <class Isa, bool kInt4, int kPlanes>
void RunTask(const IntGemmTask& task) {
  using Shape = TileShape<Isa>;
  const int64_t rows = task.end_row - task.first_row;
  const int64_t tiles = (rows + Shape::kMaxRows - 1) / Shape::kMaxRows;
  if (tiles <= 1) {
    return DispatchRows<Isa, kInt4, kPlanes, false, Shape::kMaxRows>(
        task, rows, task.first_row, task.first_panel, task.end_panel);
  }
  // The panels of a tile stay in the caches over all rows, which come from the second level: their
  // codes are a quarter of float32's size, so K is never cut.
  for (int64_t panel = task.first_panel; panel < task.end_panel; panel += Shape::kManyPanels) {
    const int64_t end =
        panel + Shape::kManyPanels < task.end_panel ? panel + Shape::kManyPanels : task.end_panel;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = task.first_row + rows * tile / tiles;
      const int64_t next = task.first_row + rows * (tile + 1) / tiles;
      DispatchRows<Isa, kInt4, kPlanes, true, Shape::kMaxRows>(task, next - row, row, panel, end);
    }
  }
}

template <class Isa>
void RunInt(const IntGemmTask& task) {
  if (task.planes == 1) {
    return task.int4 ? RunTask<Isa, true, 1>(task) : RunTask<Isa, false, 1>(task);
  }
  return task.int4 ? RunTask<Isa, true, 2>(task) : RunTask<Isa, false, 2>(task);
}

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

#include "engine/ops/cpu/ahead-inl.h"
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

// R rows × P panels `step` apart, finished. What `ahead` names is fetched beside.
template <class Isa, bool kInt4, int kPlanes, int R, int P>
HWY_NOINLINE void Tile(const IntGemmTask& task, int64_t row, int64_t panel, int64_t step,
                       Ahead* ahead) {
  constexpr int kBlocks = kQuantGroup / 4;
  const uint8_t* codes = task.panels + panel * task.panel_bytes + CodesAt(0, kInt4);
  const int64_t step_bytes = step * task.panel_bytes;
  RowPointers<R> x(task.x + row * task.x_stride, task.x_stride);
  const auto group_of = [&](int r) {
    return reinterpret_cast<const ActivationGroup*>(x[r] + kPlanes * kQuantGroup);
  };
  FetchOutputs<P, R>(task, row, panel * kIntPanel, step * kIntPanel, kIntPanel);
  constexpr bool kOffset = !kInt4 && !Isa::kSigned8;  // goes in with the last plane
  typename Isa::Floats out[P][R][1];
  T2R_UNROLL
  for (int p = 0; p < P; ++p) {
    T2R_UNROLL
    for (int r = 0; r < R; ++r) out[p][r][0] = Isa::SetFloats(0.0F);
  }
  for (int64_t g = 0; g < task.groups; ++g) {
    typename Isa::Ints sums[P][R];
    T2R_UNROLL
    for (int r = 0; r < R; ++r) {
      T2R_UNROLL
      for (int p = 0; p < P; ++p) {
        sums[p][r] = Isa::SetInts(kOffset && kPlanes == 1 ? group_of(r)->offset : 0);
      }
    }
    ahead->Step();
    // With two planes the sums of the upper bytes, times 256, then those of the lower ones: codes
    // come from memory once and from the first cache again.
#pragma GCC unroll 1
    for (int byte = 0; byte < kPlanes; ++byte) {
      const auto inputs = [&](int r, int block) {
        return reinterpret_cast<const int8_t*>(x[r]) + byte * kQuantGroup + block * 4;
      };
      if (byte == 1) {
        T2R_UNROLL
        for (int r = 0; r < R; ++r) {
          const int32_t offset = kOffset ? group_of(r)->offset : 0;
          T2R_UNROLL
          for (int p = 0; p < P; ++p) sums[p][r] = Isa::NextByte(sums[p][r], offset);
        }
      }
      if constexpr (kInt4) {
        T2R_UNROLL
        for (int b = 0; b < kBlocks / 2; ++b) {
          typename Isa::Codes4 low[P];
          typename Isa::Codes4 high[P];
          T2R_UNROLL
          for (int p = 0; p < P; ++p) {
            Isa::Load4(codes + p * step_bytes + b * 64, low[p], high[p]);
          }
          T2R_UNROLL
          for (int r = 0; r < R; ++r) {
            const auto first = Isa::Broadcast(inputs(r, b));
            const auto second = Isa::Broadcast(inputs(r, b + kBlocks / 2));
            T2R_UNROLL
            for (int p = 0; p < P; ++p) {
              sums[p][r] = Isa::Dot4(Isa::Dot4(sums[p][r], low[p], first), high[p], second);
            }
          }
        }
      } else {
        T2R_UNROLL
        for (int b = 0; b < kBlocks; ++b) {
          typename Isa::Codes8 block[P];
          T2R_UNROLL
          for (int p = 0; p < P; ++p) block[p] = Isa::Load8(codes + p * step_bytes + b * 64);
          T2R_UNROLL
          for (int r = 0; r < R; ++r) {
            const auto input = Isa::Broadcast(inputs(r, b));
            T2R_UNROLL
            for (int p = 0; p < P; ++p) sums[p][r] = Isa::Dot8(sums[p][r], block[p], input);
          }
        }
      }
    }
    const uint8_t* scales = codes - ScalesBefore(g, kInt4);
    T2R_UNROLL
    for (int p = 0; p < P; ++p) {
      const auto* of_panel = reinterpret_cast<const uint16_t*>(scales + p * step_bytes);
      const auto scale = Isa::Widen(of_panel);
      const auto minimum = kInt4 ? Isa::Widen(of_panel + kIntPanel) : scale;
      T2R_UNROLL
      for (int r = 0; r < R; ++r) {
        AddGroup<Isa, kInt4>(scale, minimum, *group_of(r), sums[p][r], &out[p][r][0]);
      }
    }
    codes += CodesAt(g + 1, kInt4) - CodesAt(g, kInt4);
    x.Advance(GroupBytes(kPlanes));
  }
  FinishTile<Isa>(task, row, panel * kIntPanel, step * kIntPanel, out);
}

// What follows `count` panels from `panel` on, to be fetched in `tiles` tiles.
HWY_INLINE Ahead AfterPanels(const IntGemmTask& task, int64_t panel, int64_t count, int64_t tiles) {
  return AfterPanels(task, task.panels, task.panel_bytes, panel, count, tiles * task.groups);
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
  static constexpr PanelsAtOnce kAtOnce = {Isa::kAccumulators / FewPanels(1), FewPanels(1),
                                           kManyPanels, kShareRows};
  static_assert(Isa::kAccumulators / 4 <= kMaxRows);  // few rows are one tile: panels a step apart
};

// R rows over `panels` panels from `panel` on, P at a time. ahead: null where these are all rows of
// the task.
template <class Isa, bool kInt4, int kPlanes, int R, int P>
void TilePanels(const IntGemmTask& task, int64_t row, int64_t panel, int64_t panels, Ahead* ahead) {
  ForPanels<P, R <= TileShape<Isa>::kAtOnce.few_rows>(
      task, panel, panels, ahead,
      [&](int64_t first, int64_t count) { return AfterPanels(task, first, count, 1); },
      [&](int64_t first, auto count, Ahead* beside) {
        Tile<Isa, kInt4, kPlanes, R, decltype(count)::value>(task, row, first, task.panel_step,
                                                             beside);
      });
}

template <class Isa, bool kInt4, int kPlanes, bool kMany, int R>
void DispatchRows(const IntGemmTask& task, int64_t rows, int64_t row, int64_t panel, int64_t panels,
                  Ahead* ahead) {
  if constexpr (R > 0) {
    constexpr int kP = kMany ? TileShape<Isa>::kManyPanels : TileShape<Isa>::FewPanels(R);
    if (rows == R) {
      return TilePanels<Isa, kInt4, kPlanes, R, kP>(task, row, panel, panels, ahead);
    }
    DispatchRows<Isa, kInt4, kPlanes, kMany, R - 1>(task, rows, row, panel, panels, ahead);
  }
}

template <class Isa, bool kInt4, int kPlanes>
void RunTask(const IntGemmTask& task) {
  using Shape = TileShape<Isa>;
  const int64_t rows = task.end_row - task.first_row;
  const int64_t tiles = (rows + Shape::kMaxRows - 1) / Shape::kMaxRows;
  if (tiles <= 1) {
    return DispatchRows<Isa, kInt4, kPlanes, false, Shape::kMaxRows>(
        task, rows, task.first_row, task.first_panel, task.panel_count, nullptr);
  }
  // The panels of a tile stay in the caches over all rows, which come from the second level: their
  // codes are a quarter of float32's size, so K is never cut.
  for (int64_t done = 0; done < task.panel_count; done += Shape::kManyPanels) {
    const int64_t panel = task.first_panel + done;
    const int64_t left = task.panel_count - done;
    const int64_t panels = left < Shape::kManyPanels ? left : Shape::kManyPanels;
    Ahead ahead = AfterPanels(task, panel, panels, tiles);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = task.first_row + rows * tile / tiles;
      const int64_t next = task.first_row + rows * (tile + 1) / tiles;
      DispatchRows<Isa, kInt4, kPlanes, true, Shape::kMaxRows>(task, next - row, row, panel, panels,
                                                               &ahead);
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

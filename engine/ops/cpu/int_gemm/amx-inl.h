// Quantised products by tiles: 16 rows × one panel, a group of input features an instruction.
// Included as tile-inl.h is, and after it.
//
// Sums of integers are exact in any order, and what follows is what tile-inl.h does (AddGroup): so
// a row has the same bits by tiles and by the sets without them, and tiles can be left to tasks of
// many rows. Isa has Ints and Floats of 16 lanes with LoadInts, AddInts and what AddGroup needs;
// Tiles the tile instructions (engine/ops/cpu/amx/).

constexpr int64_t kTileRows = 16;

// A group's codes of one panel as the instruction reads them: 8 blocks of 64 bytes. int8's lie so;
// int4's are unpacked to `room`.
template <bool kInt4>
HWY_INLINE const uint8_t* TileCodes(const uint8_t* codes,
                                    uint8_t (&room)[kIntPanel * kQuantGroup]) {
  if constexpr (!kInt4) return codes;
  constexpr int64_t kHalf = kIntPanel * kQuantGroup / 2;
  for (int64_t i = 0; i < kHalf; ++i) {
    room[i] = codes[i] & 15U;
    room[kHalf + i] = static_cast<uint8_t>(codes[i] >> 4);
  }
  return room;
}

template <class Isa, class Tiles, bool kInt4, int kPlanes>
HWY_NOINLINE void TileOfRows(const IntGemmTask& task, int64_t row, int64_t panel) {
  const uint8_t* base = task.panels + panel * task.panel_bytes;
  const int8_t* x = task.x + row * task.x_stride;
  typename Isa::Floats out[kTileRows];
  T2R_UNROLL
  for (int r = 0; r < kTileRows; ++r) out[r] = Isa::SetFloats(0.0F);
  for (int64_t g = 0; g < task.groups; ++g, x += GroupBytes(kPlanes)) {
    const uint8_t* codes = base + CodesAt(g, kInt4);
    alignas(64) uint8_t room[kIntPanel * kQuantGroup];
    alignas(64) int32_t sums[kPlanes][kTileRows][kIntPanel];
    Tiles::template Load<2>(TileCodes<kInt4>(codes, room), 64);
    for (int plane = 0; plane < kPlanes; ++plane) {
      Tiles::template Zero<0>();
      Tiles::template Load<1>(x + plane * kQuantGroup, task.x_stride);
      Tiles::template DotSignedUnsigned<0, 1, 2>();
      Tiles::template Store<0>(sums[plane], sizeof(sums[plane][0]));
    }
    const auto* scales = reinterpret_cast<const uint16_t*>(codes - ScalesBefore(g, kInt4));
    const auto scale = Isa::Widen(scales);
    const auto minimum = kInt4 ? Isa::Widen(scales + kIntPanel) : scale;
    T2R_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      const auto& group =
          *reinterpret_cast<const ActivationGroup*>(x + r * task.x_stride + kPlanes * kQuantGroup);
      const int32_t offset = kInt4 ? 0 : group.offset;
      auto sum = Isa::LoadInts(sums[0][r]);
      if constexpr (kPlanes == 1) {
        if constexpr (!kInt4) sum = Isa::AddInts(sum, Isa::SetInts(offset));
      } else {
        sum = Isa::AddInts(Isa::NextByte(sum, offset), Isa::LoadInts(sums[1][r]));
      }
      AddGroup<Isa, kInt4>(scale, minimum, group, sum, &out[r]);
    }
  }
  T2R_UNROLL
  for (int r = 0; r < kTileRows; ++r) Finish<Isa>(task, row + r, panel * kIntPanel, {out[r]});
}

template <class Isa, class Tiles, bool kInt4, int kPlanes>
void RunTiles(const IntGemmTask& task) {
  TileConfig config;
  config.Set(0, kTileRows, 4 * kIntPanel);        // sums
  config.Set(1, kTileRows, kQuantGroup);          // a group's activations
  config.Set(2, kQuantGroup / 4, 4 * kIntPanel);  // and codes
  Tiles::Configure(config);
  for (int64_t i = 0; i < task.panel_count; ++i) {
    const int64_t panel = task.first_panel + i;
    for (int64_t row = task.first_row; row < task.end_row; row += kTileRows) {
      TileOfRows<Isa, Tiles, kInt4, kPlanes>(task, row, panel);
    }
  }
  Tiles::Release();
}

// Whole tiles of rows by tiles, the rest of them by kRest.
template <class Isa, class Tiles, const IntGemmKernels& kRest>
void RunAmx(const IntGemmTask& task) {
  IntGemmTask part = task;
  const int64_t rows = task.end_row - task.first_row;
  part.end_row = task.first_row + rows / kTileRows * kTileRows;
  if (part.end_row > part.first_row) {
    if (task.planes == 1) {
      task.int4 ? RunTiles<Isa, Tiles, true, 1>(part) : RunTiles<Isa, Tiles, false, 1>(part);
    } else {
      task.int4 ? RunTiles<Isa, Tiles, true, 2>(part) : RunTiles<Isa, Tiles, false, 2>(part);
    }
  }
  part.first_row = part.end_row;
  part.end_row = task.end_row;
  if (part.end_row > part.first_row) kRest.run(part);
}

// Products of bfloat16 pairs by tiles: 16 or 32 rows × one panel, kTilePairs pairs of input
// features an instruction. Included as tile-inl.h is, and after finish-inl.h. Isa has what Finish
// needs, Tiles the tile instructions (engine/ops/cpu/amx/).

constexpr int64_t kMaxTileRows = 16;

// kRowTiles tiles of tile_rows rows. Tile i is to write the kMaxTileRows rows from
// row + i · kMaxTileRows on, as far as the task has them. A tile has all its rows: the last begins
// early, and what it repeats is not written again.
template <class Isa, class Tiles, int kRowTiles>
HWY_NOINLINE void TilesOfRows(const Bf16GemmTask& task, int64_t row, int64_t tile_rows,
                              int64_t panel) {
  constexpr int64_t kHalf = kPairPanel / 2;
  constexpr int64_t kPanelRow = kPairPanel * sizeof(uint32_t);  // bytes of a pair in a panel
  const uint32_t* w = task.panels + panel * task.pairs * kPairPanel;
  const int64_t x_bytes = task.x_stride * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t last = task.end_row - tile_rows;
  int64_t first[kRowTiles];
  for (int i = 0; i < kRowTiles; ++i) {
    first[i] = row + i * kMaxTileRows < last ? row + i * kMaxTileRows : last;
  }
  Tiles::template Zero<0>();
  Tiles::template Zero<1>();
  if constexpr (kRowTiles == 2) {
    Tiles::template Zero<2>();
    Tiles::template Zero<3>();
  }
  for (int64_t pair = 0; pair < task.pairs; pair += kTilePairs) {
    Tiles::template Load<4>(w + pair * kPairPanel, kPanelRow);
    Tiles::template Load<5>(w + pair * kPairPanel + kHalf, kPanelRow);
    Tiles::template Load<6>(task.x + first[0] * task.x_stride + pair, x_bytes);
    Tiles::template DotBf16<0, 6, 4>();
    Tiles::template DotBf16<1, 6, 5>();
    if constexpr (kRowTiles == 2) {
      Tiles::template Load<7>(task.x + first[1] * task.x_stride + pair, x_bytes);
      Tiles::template DotBf16<2, 7, 4>();
      Tiles::template DotBf16<3, 7, 5>();
    }
  }
  alignas(64) float sums[kRowTiles][kMaxTileRows][2][kHalf];
  constexpr int64_t kSumRow = sizeof(sums[0][0]);
  Tiles::template Store<0>(sums[0][0][0], kSumRow);
  Tiles::template Store<1>(sums[0][0][1], kSumRow);
  if constexpr (kRowTiles == 2) {
    Tiles::template Store<2>(sums[1][0][0], kSumRow);
    Tiles::template Store<3>(sums[1][0][1], kSumRow);
  }
  for (int i = 0; i < kRowTiles; ++i) {
    for (int64_t r = row + i * kMaxTileRows - first[i]; r < tile_rows; ++r) {
      Finish<Isa>(task, first[i] + r, panel * kPairPanel,
                  {Isa::LoadFloats(sums[i][r][0]), Isa::LoadFloats(sums[i][r][1])});
    }
  }
}

template <class Isa, class Tiles>
void RunTiles(const Bf16GemmTask& task) {
  const int64_t rows = task.end_row - task.first_row;
  const int64_t tile_rows = rows < kMaxTileRows ? rows : kMaxTileRows;
  TileConfig config;
  for (const int sums : {0, 1, 2, 3}) config.Set(sums, tile_rows, 64);
  for (const int weights : {4, 5}) config.Set(weights, kTilePairs, 64);
  for (const int inputs : {6, 7}) config.Set(inputs, tile_rows, 64);
  Tiles::Configure(config);
  for (int64_t i = 0; i < task.panel_count; ++i) {
    const int64_t panel = task.first_panel + i;
    for (int64_t row = task.first_row; row < task.end_row; row += 2 * kMaxTileRows) {
      if (row + kMaxTileRows < task.end_row) {
        TilesOfRows<Isa, Tiles, 2>(task, row, tile_rows, panel);
      } else {
        TilesOfRows<Isa, Tiles, 1>(task, row, tile_rows, panel);
      }
    }
  }
  Tiles::Release();
}

// kRows' rounding, filled up with zeros to whole tiles.
template <const Bf16GemmKernels& kRows>
void RoundTileRow(const float* x, int64_t cols, uint32_t* pairs) {
  kRows.round_row(x, cols, pairs);
  const int64_t whole = (PairsOf(cols) + kTilePairs - 1) / kTilePairs * kTilePairs;
  for (int64_t i = PairsOf(cols); i < whole; ++i) pairs[i] = 0;
}

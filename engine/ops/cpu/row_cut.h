// How the rows of an op are cut into tasks of several threads, so that a thread keeps its rows from
// op to op: what it wrote is then in the caches of its own core.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "engine/ops/cpu/kernels.h"

namespace t2r {

constexpr int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Rows {
  int64_t begin = 0;
  int64_t end = 0;
};

// Chunk `chunk` of `chunks` of about as many rows.
constexpr Rows RowChunk(int64_t rows, int64_t chunk, int64_t chunks) {
  return {rows * chunk / chunks, rows * (chunk + 1) / chunks};
}

// Into how many chunks a loop over rows ≥ 1 is cut, of the `wanted` that its work is worth: at most
// four a thread, and as many for each where there are more than threads. ThreadPool::ShareOf then
// gives thread t the rows of RowChunk(rows, t, threads).
inline int64_t RowChunks(int64_t rows, int64_t wanted, int64_t threads) {
  const int64_t chunks = std::clamp<int64_t>(wanted, 1, std::min(rows, 4 * threads));
  return chunks > threads ? chunks - chunks % threads : chunks;
}

// The rows of a matrix product: in shares, one or one a thread, and each share in blocks of at most
// kGemmMaxRows rows, which are whole tiles but for a share's last.
class RowCut {
 public:
  // rows ≥ 1; share_rows: PanelsAtOnce's.
  RowCut(int64_t rows, int64_t share_rows, int64_t threads)
      : rows_(rows),
        shares_(share_rows > 0 && rows >= share_rows * threads ? threads : 1),
        most_(DivideUp(rows, shares_)),
        blocks_(DivideUp(most_, kGemmMaxRows)) {
    assert(rows >= 1);
  }

  int64_t rows() const { return rows_; }
  int64_t shares() const { return shares_; }
  // Of each share.
  int64_t blocks() const { return blocks_; }
  // Of the longest block, or a few more.
  int64_t most_block_rows() const {
    return blocks_ == 1 ? most_ : DivideUp(Tiles(), blocks_) * kTileRows;
  }
  // Never empty.
  Rows Block(int64_t share, int64_t block) const {
    const Rows all = RowChunk(rows_, share, shares_);
    if (blocks_ == 1) return all;
    const Rows tiles = RowChunk(Tiles(), block, blocks_);
    return {all.begin + tiles.begin * kTileRows,
            std::min(all.begin + tiles.end * kTileRows, all.end)};
  }

 private:
  static constexpr int64_t kTileRows = 16;  // of the largest tiles
  static_assert(kGemmMaxRows % kTileRows == 0);
  int64_t Tiles() const { return DivideUp(most_, kTileRows); }

  int64_t rows_;
  int64_t shares_;
  int64_t most_;  // rows of the longest share
  int64_t blocks_;
};

}  // namespace t2r

// A step's batch in device memory, as kernels read it. CudaBackend uploads it in one copy, to
// addresses that stay the same from step to step.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/ops/batch.h"

namespace t2r::cuda {

// Rows of a prompt that a block takes at once: tiles begin at positions that are multiples of it
// (but for the first of a segment that does not). The backend's prompt_alignment().
inline constexpr int kTileRows = 64;

// Consecutive rows of one segment.
struct RowTile {
  int32_t slot;     // −1: a padding row, which reads and writes no state and no page
  int32_t segment;  // index into segments; 0 for padding
  int32_t first_row;
  int32_t rows;      // 1 … kTileRows
  int64_t position;  // of first_row in the session
};

// The tiles of a segment, one after another.
struct TiledSegment {
  int32_t segment;
  int32_t first_tile;
  int32_t tiles;
};

// Pointers are device memory. Every row of the step is in exactly one of tiles and singles.
struct DeviceBatch {
  int64_t rows = 0;                       // StepShape::rows: the batch's own and padding
  int64_t logit_row_count = 0;            // StepShape::logit_rows
  const int32_t* tokens = nullptr;        // [rows]; 0 for padding
  const int64_t* positions = nullptr;     // [rows]; 0 for padding
  const int32_t* pages = nullptr;         // as Batch
  const int32_t* source_pages = nullptr;  // as Batch
  const int32_t* logit_rows = nullptr;    // [logit_row_count]; 0 for padding
  const Segment* segments = nullptr;

  // Tiles of prompts and encoders' sources, in the order of the segments: two rows or more, or one
  // that other tiles of its segment follow.
  const RowTile* tiles = nullptr;
  int32_t tile_count = 0;
  // The segments that have tiles.
  const TiledSegment* tiled = nullptr;
  int32_t tiled_count = 0;
  // Rows that stand alone: decoding sessions, and a prompt's last row where only one is left of its
  // tile. The latter follows the tiles of its segment, so kernels over singles run after those over
  // tiles. A step of decodes has `rows` of them, singles[i] being row i, and neither tiles nor
  // anything else that shapes a launch: such a step is recorded once and replayed for every batch
  // of as many rows, so its launches may depend on nothing but rows and logit_row_count.
  const RowTile* singles = nullptr;
  int32_t single_count = 0;
};

// Device memory for what an op needs between its own kernels.
class Scratch {
 public:
  virtual ~Scratch() = default;
  // At least `bytes`, 256-byte aligned, of unspecified contents, until the next op. Allocates at
  // most when it is asked for more than ever before.
  virtual void* Reserve(size_t bytes) = 0;
};

// What every op is given.
struct OpContext {
  const DeviceBatch& batch;
  cudaStream_t stream;
  Scratch& scratch;
};

}  // namespace t2r::cuda

// The chunks of a batch's segments: what the chunked form of linear attention, and the tiles of
// softmax attention, work on.
//
// Chunks start at multiples of kChunkRows from the session's first token, whatever part of it a
// segment holds, so that results do not depend on where a prompt was split at such multiples.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/ops/batch.h"

namespace t2r::cuda {

// Rows of a chunk: Backend::prompt_alignment() of this backend.
inline constexpr int kChunkRows = 64;

// Consecutive rows of one segment within one window [n · kChunkRows, (n + 1) · kChunkRows) of its
// session's positions.
struct Chunk {
  int32_t segment = 0;    // index into the batch's segments
  int32_t first_row = 0;  // in the batch
  int32_t rows = 0;       // 1 … kChunkRows
  int32_t index = 0;      // its place among the listed chunks of its segment, from 0
};

// A row that is alone in its segment's last chunk is computed by the decode kernels, whether it
// came with its prompt or by itself, so that both give the same bits.
inline constexpr bool EndsInLoneRow(int64_t position, int32_t rows) {
  return rows == 1 || (position + rows - 1) % kChunkRows == 0;
}

// All chunks in the order of rows but for such lone rows; empty where every segment is one row.
inline std::vector<Chunk> ChunksOf(std::span<const Segment> segments) {
  std::vector<Chunk> chunks;
  for (size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const int32_t rows = segment.rows - (EndsInLoneRow(segment.position, segment.rows) ? 1 : 0);
    int32_t index = 0;
    for (int32_t at = 0; at < rows;) {
      const auto room = static_cast<int32_t>(kChunkRows - (segment.position + at) % kChunkRows);
      const int32_t count = std::min(room, rows - at);
      chunks.push_back({static_cast<int32_t>(s), segment.first_row + at, count, index++});
      at += count;
    }
  }
  return chunks;
}

}  // namespace t2r::cuda

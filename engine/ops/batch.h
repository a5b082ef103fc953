// The work of one step: which tokens of which sessions go through the model together.
#pragma once

#include <cstdint>
#include <vector>

namespace t2r {

// Positions a page of the full-attention key/value cache holds.
inline constexpr int kKvPageSize = 64;

// Consecutive tokens of one session. A decoding session has one row, a prompt chunk several. A slot
// appears in at most one segment of a batch.
struct Segment {
  int32_t slot = 0;        // the session's place in the state pool
  int32_t first_row = 0;   // its first row in the batch
  int32_t rows = 0;        // how many, ≥ 1
  int64_t position = 0;    // the first row's position in the session, from 0
  int32_t first_page = 0;  // index into Batch::pages of the session's page table (full layers only)
  // Encoder-decoders: tokens of the session's source, and the index into Batch::source_pages of the
  // page table of its keys and values (full cross attention only).
  int32_t source_rows = 0;
  int32_t first_source_page = 0;
};

// Host memory; a backend that computes elsewhere uploads it in RunStep. The sources of an
// encoder-decoder make batches of their own: a segment a source, from position 0.
struct Batch {
  std::vector<int32_t> tokens;        // [rows]
  std::vector<int64_t> positions;     // [rows], 64-bit: endless sessions pass 2^31
  std::vector<Segment> segments;      // rows in order, without gaps
  std::vector<int32_t> pages;         // the segments' page tables, one after another
  std::vector<int32_t> source_pages;  // page tables of the segments' sources, likewise
  std::vector<int32_t> logit_rows;    // rows whose logits are wanted, ascending

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

}  // namespace t2r

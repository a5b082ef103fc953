// The shapes of the tile registers, as ldtilecfg reads them (Intel's Software Developer's Manual,
// LDTILECFG): palette 1, eight registers of up to 16 rows of 64 bytes.
#pragma once

#include <cstdint>

namespace t2r {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void Set(int tile, int64_t tile_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace t2r

// A plain twin of the tile instructions (Intel's Software Developer's Manual: LDTILECFG, TILELOADD,
// TILESTORED, TDPBSUD, TDPBF16PS), over which the kernels' source is tested on machines without
// them. Built without contraction (-ffp-contract=off): what is fused is written so.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "engine/ops/cpu/amx/config.h"
#include "engine/ops/cpu/plain_lanes.h"

namespace t2r {

// Its registers are a thread's own, as the processor's are.
struct AmxTilesTwin {
  struct State {
    TileConfig config;
    uint8_t tiles[8][16][64];
  };
  static State& Mine() {
    static thread_local State state;
    return state;
  }

  // Every register is zero afterwards.
  static void Configure(const TileConfig& config) {
    State& state = Mine();
    state.config = config;
    std::memset(state.tiles, 0, sizeof(state.tiles));
  }
  static void Release() { Configure({}); }
  template <int kTile>
  static void Zero() {
    CheckConfigured<kTile>();
    std::memset(Mine().tiles[kTile], 0, sizeof(Mine().tiles[kTile]));
  }
  // What lies outside the register's shape becomes zero.
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    State& state = Mine();
    Zero<kTile>();
    for (int row = 0; row < state.config.rows[kTile]; ++row) {
      std::memcpy(state.tiles[kTile][row], static_cast<const uint8_t*>(from) + row * stride,
                  state.config.row_bytes[kTile]);
    }
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    CheckConfigured<kTile>();
    const State& state = Mine();
    for (int row = 0; row < state.config.rows[kTile]; ++row) {
      std::memcpy(static_cast<uint8_t*>(to) + row * stride, state.tiles[kTile][row],
                  state.config.row_bytes[kTile]);
    }
  }
  // These end the program where the processor would: a register without a shape, or shapes that do
  // not fit, are an invalid opcode.
  template <int kTile>
  static void CheckConfigured() {
    const TileConfig& shape = Mine().config;
    if (shape.palette != 1 || shape.rows[kTile] == 0 || shape.row_bytes[kTile] == 0) std::abort();
  }
  template <int kSums, int kA, int kB>
  static void CheckShapes() {
    const TileConfig& shape = Mine().config;
    const bool fit = shape.palette == 1 && shape.rows[kSums] == shape.rows[kA] &&
                     shape.row_bytes[kA] == 4 * shape.rows[kB] &&
                     shape.row_bytes[kSums] == shape.row_bytes[kB];
    const bool empty = shape.rows[kSums] == 0 || shape.row_bytes[kSums] == 0;
    if (!fit || empty || shape.rows[kSums] > 16 || shape.row_bytes[kSums] > 64) std::abort();
  }
  template <int kSums, int kA, int kB>
  static void DotSignedUnsigned() {
    CheckShapes<kSums, kA, kB>();
    State& state = Mine();
    const TileConfig& shape = state.config;
    for (int m = 0; m < shape.rows[kSums]; ++m) {
      for (int k = 0; k < shape.row_bytes[kA] / 4; ++k) {
        for (int n = 0; n < shape.row_bytes[kSums] / 4; ++n) {
          int32_t sum = 0;
          std::memcpy(&sum, state.tiles[kSums][m] + 4 * n, sizeof(sum));
          for (int j = 0; j < 4; ++j) {
            sum += static_cast<int8_t>(state.tiles[kA][m][4 * k + j]) *
                   static_cast<int32_t>(state.tiles[kB][k][4 * n + j]);
          }
          std::memcpy(state.tiles[kSums][m] + 4 * n, &sum, sizeof(sum));
        }
      }
    }
  }
  template <int kSums, int kA, int kB>
  static void DotBf16() {
    CheckShapes<kSums, kA, kB>();
    State& state = Mine();
    const TileConfig& shape = state.config;
    const auto value = [](const uint8_t* at) {
      uint16_t bits = 0;
      std::memcpy(&bits, at, sizeof(bits));
      return WithoutSubnormal(BFloat16ToFloat(bits));
    };
    for (int m = 0; m < shape.rows[kSums]; ++m) {
      for (int n = 0; n < shape.row_bytes[kSums] / 4; ++n) {
        float halves[2] = {0, 0};  // of even features, of odd ones
        for (int k = 0; k < shape.row_bytes[kA] / 4; ++k) {
          for (int half = 0; half < 2; ++half) {
            halves[half] = WithoutSubnormal(std::fma(value(state.tiles[kA][m] + 4 * k + 2 * half),
                                                     value(state.tiles[kB][k] + 4 * n + 2 * half),
                                                     halves[half]));
          }
        }
        float sum = 0;
        std::memcpy(&sum, state.tiles[kSums][m] + 4 * n, sizeof(sum));
        sum = WithoutSubnormal(WithoutSubnormal(sum) + WithoutSubnormal(halves[0] + halves[1]));
        std::memcpy(state.tiles[kSums][m] + 4 * n, &sum, sizeof(sum));
      }
    }
  }
};

}  // namespace t2r

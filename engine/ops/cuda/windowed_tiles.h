// What the kernels of windowed attention's chunked form share: the scratch memory between them, and
// the keys that a tile attends to.
#pragma once

#include "engine/ops/cuda/linear_tiles.h"
#include "engine/ops/cuda/windowed_kernels.h"

namespace t2r::cuda {

// Scratch of a launch's tiles.
struct WindowedScratch {
  RowView rows;         // [batch row, 2 · G · d]: keys as the window keeps them, then values
  void* features;       // f of the keys that a tile folds: [tile, G, fold_rows, wide_k]
  float* states;        // S and z, as TileScratch: [tile, G, wide_k · wide_d + wide_k]
  void* weights;        // of a tile's rows for its columns: [tile, H, 64, columns]
  void* state_weights;  // of S's rows: [tile, H, 64, wide_k]
  float* denominators;  // [tile, H, 64]
  int fold_rows;        // keys that a tile folds at most, rounded up to 64
  int columns;          // columns of a tile at most, rounded up to 64
  int groups, heads, wide_k, wide_d;

  template <typename T>
  __device__ __forceinline__ T* Features(int tile, int group) const {
    return static_cast<T*>(features) +
           (static_cast<int64_t>(tile) * groups + group) * fold_rows * wide_k;
  }
  __host__ __device__ int64_t state_floats() const {
    return static_cast<int64_t>(wide_k) * wide_d + wide_k;
  }
  __device__ __forceinline__ float* State(int tile, int group) const {
    return states + (static_cast<int64_t>(tile) * groups + group) * state_floats();
  }
  template <typename T>
  __device__ __forceinline__ T* Weights(int tile, int head) const {
    return static_cast<T*>(weights) +
           (static_cast<int64_t>(tile) * heads + head) * kSquare * columns;
  }
  template <typename T>
  __device__ __forceinline__ T* StateWeights(int tile, int head) const {
    return static_cast<T*>(state_weights) +
           (static_cast<int64_t>(tile) * heads + head) * kSquare * wide_k;
  }
  __device__ __forceinline__ float* Denominators(int tile, int head) const {
    return denominators + (static_cast<int64_t>(tile) * heads + head) * kSquare;
  }
};

// The keys that a tile's rows see one by one, as columns: the sinks, then positions from `begin`,
// the first that is not folded before the tile, to the tile's last.
struct TileColumns {
  int sinks;
  int64_t begin;
  int64_t folded;  // positions begin … folded − 1 are folded by the tile's rows
  int64_t last;    // the tile's last position
  int64_t segment_position;
  int64_t segment_row;  // the batch's row of segment_position

  __device__ __forceinline__ TileColumns(const WindowedParameters& p, const RowTile& tile,
                                         const Segment* segments)
      : sinks(p.window > 0 ? p.sinks : 0),
        begin(p.FoldedBefore(tile.position - 1)),
        folded(p.FoldedBefore(tile.position + tile.rows - 1)),
        last(tile.position + tile.rows - 1),
        segment_position(segments[tile.segment].position),
        segment_row(segments[tile.segment].first_row) {
    if (!p.map.updates()) {  // nothing but the state
      folded = begin;
      last = begin - 1;
    }
  }

  __device__ __forceinline__ int count() const {
    return sinks + static_cast<int>(last + 1 - begin);
  }
  __device__ __forceinline__ int folds() const { return static_cast<int>(folded - begin); }
  __device__ __forceinline__ int64_t Position(int column) const {
    return column < sinks ? column : begin + column - sinks;
  }
};

// Element i of a column's key, or value, as the window keeps it: of the batch, or of the slot.
template <bool kValue>
__device__ __forceinline__ float ColumnElement(const WindowedParameters& p,
                                               const WindowedScratch& scratch,
                                               const TileColumns& columns, int slot, int group,
                                               int column, int i) {
  const int64_t j = columns.Position(column);
  if (j > columns.last) return 0.0F;  // a sink to come
  if (j >= columns.segment_position) {
    const int64_t row = columns.segment_row + j - columns.segment_position;
    return scratch.rows.Get(row, (kValue ? p.map.groups + group : group) * int64_t{p.map.d} + i);
  }
  const int64_t place = column < columns.sinks ? p.ring + j : j % p.ring;
  return p.Window(slot).Get(kValue ? p.ValueRow(group, place) : p.KeyRow(group, place), i);
}

// The stages of PrefillWindowedAttention (windowed_prefill.cu) over `count` tiles, which are the
// scratch's. `narrow`: activations, features and weights are bfloat16, else float32.
void LaunchWindowedFeatures(const OpContext& context, const WindowedParameters& parameters,
                            const WindowedScratch& scratch, const RowTile* tiles, int count,
                            bool narrow);
void LaunchWindowedWeights(const OpContext& context, const WindowedParameters& parameters,
                           const WindowedScratch& scratch, const RowTile* tiles, int count,
                           bool narrow);
void LaunchWindowedOutputs(const OpContext& context, const WindowedParameters& parameters,
                           const WindowedScratch& scratch, const RowTile* tiles, int count,
                           bool narrow);

}  // namespace t2r::cuda

// The vector kernels of the CPU backend, compiled once an instruction set (Highway) and chosen when
// the backend starts. Functions work on one task of an op and know nothing of threads.
#pragma once

#include <cstdint>

#include "engine/ops/activation.h"
#include "engine/ops/batch.h"
#include "engine/ops/cpu/product.h"
#include "engine/ops/full_attention.h"
#include "engine/ops/linear_attention.h"
#include "engine/ops/windowed_attention.h"

namespace t2r {

// ---- Matrix products ----

// W is kept in panels of panel_cols output features: panel p, input feature k at
// (p · cols + k) · panel_cols. float32 panels hold the features in order; bfloat16 panels hold
// panel_cols / 2 32-bit words whose lower half is feature j and upper half feature
// j + panel_cols / 2. The last panel is padded with zeros.
struct GemmTask : ProductTask {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const void* panels = nullptr;
  bool bfloat16 = false;
  int64_t cols = 0;          // K
  float* scratch = nullptr;  // rows · panels · panel_cols floats, 64-byte aligned
};

// Scratch that every matrix product task fits in: 96 rows × 128 features and what is smaller.
inline constexpr int64_t kGemmScratchFloats = 96 * 128;
inline constexpr int64_t kGemmMaxRows = 96;

struct GemmKernels {
  const char* target = "";  // the instruction set's name
  int panel_cols = 0;
  PanelsAtOnce panels;
  void (*run)(const GemmTask& task) = nullptr;
};

const GemmKernels& ChooseGemmKernels();

// ---- Ops of one row ----

struct RowKernels {
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out) = nullptr;
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                     float* out) = nullptr;
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out) = nullptr;
  void (*activate)(ActivationKind kind, float* x, int64_t n) = nullptr;
  // Rotates the first 2n values of `heads` heads; cos_sin holds n cosines, then n sines.
  void (*rope)(const float* cos_sin, int64_t n, int heads, int64_t head_dim, float* x) = nullptr;
};

const RowKernels& ChooseRowKernels();

// ---- Attention ----

struct LinearAttentionKernels {
  // Floats of scratch one task needs.
  int64_t (*scratch_floats)(const LinearAttentionArgs& args) = nullptr;
  // All rows of one segment, in order, for one group. next: where S of what the same thread likely
  // takes next lies, to be fetched meanwhile; null: not known.
  void (*run)(const LinearAttentionArgs& args, const Segment& segment, int group, const float* next,
              float* scratch) = nullptr;
};

const LinearAttentionKernels& ChooseLinearAttentionKernels();

// What the same thread likely takes next; segment null: not known.
struct WindowedAttentionNext {
  const Segment* segment = nullptr;
  int group = 0;
};

struct WindowedAttentionKernels {
  // Floats of scratch one task needs.
  int64_t (*scratch_floats)(const WindowedAttentionArgs& args) = nullptr;
  // All rows of one segment, in order, for one group.
  void (*run)(const WindowedAttentionArgs& args, const Segment& segment, int group,
              const WindowedAttentionNext& next, float* scratch) = nullptr;
};

const WindowedAttentionKernels& ChooseWindowedAttentionKernels();

// Rows of a segment that one attention task takes, so that a page is read once for all of them.
inline constexpr int kAttentionRows = 16;

// What the same thread likely takes next: the first page of it and the group. page −1: not known.
struct FullAttentionNext {
  int32_t page = -1;
  int group = 0;
};

// Whether `run` with kCausal appends the segment's keys and values to its pages: one task a group
// has all of its rows.
inline bool AppendsItself(const Segment& segment) { return segment.rows <= kAttentionRows; }

struct FullAttentionKernels {
  int64_t (*scratch_floats)(const FullAttentionArgs& args) = nullptr;
  // The segment's keys and values of a group into its pages.
  void (*append)(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages,
                 int group) = nullptr;
  // Rows [first, first + count) of a segment for one group, count ≤ kAttentionRows. `pages` is the
  // segment's page table: of its source for kCross.
  void (*run)(const FullAttentionArgs& args, const Segment& segment, const int32_t* pages,
              int32_t first, int32_t count, int group, const FullAttentionNext& next,
              float* scratch) = nullptr;
};

const FullAttentionKernels& ChooseFullAttentionKernels();

}  // namespace t2r

// Products of bfloat16 weights with activations rounded to bfloat16, by dot products of pairs: with
// vdpbf16ps twice the arithmetic a second of float32's multiply-adds, with tiles (tdpbf16ps) more.
//
// By vdpbf16ps an output element is one chain over pairs of input features i = 0 … from acc = 0,
//   acc = fma(w[2i + 1], x[2i + 1], acc), then acc = fma(w[2i], x[2i], acc).
// By tdpbf16ps it is, over runs of kTilePairs pairs from acc = 0,
//   even = fma(w[2i], x[2i], even) and odd = fma(w[2i + 1], x[2i + 1], odd) over the run's pairs
//   from zeros, then acc = acc + (even + odd); zeros fill the last run up.
// Each is rounded to nearest even to float32, with subnormal operands and results as zeros: what
// the instructions are documented to do (Intel's Software Developer's Manual, VDPBF16PS and
// TDPBF16PS), and AMD's processors for the first too. Then + bias, then + out. Nothing else cuts a
// chain, so the bits of an element depend on its row and its weights alone; and of one order they
// are the same on every processor that has its instruction, and by its twin. The orders differ in
// the last bits: tiles are used for any number of rows, one included.
#pragma once

#include <cstdint>
#include <span>

#include "engine/ops/cpu/product.h"

namespace t2r {

// Output features of a panel: two vectors.
inline constexpr int kPairPanel = 32;

// Pairs of a run, and a tile's rows of weights.
inline constexpr int64_t kTilePairs = 16;

// Pairs of input features; behind an odd last one stands a zero.
constexpr int64_t PairsOf(int64_t cols) { return (cols + 1) / 2; }

// A pair is a 32-bit word, its first feature in the lower half. Panel p holds pair i of its
// kPairPanel output features at (p · pairs + i) · kPairPanel, feature by feature; the last panel is
// padded with zeros.
struct Bf16GemmTask : ProductTask {
  const uint32_t* x = nullptr;  // [rows, pairs]
  int64_t x_stride = 0;         // words
  const uint32_t* panels = nullptr;
  int64_t pairs = 0;
};

struct Bf16GemmKernels {
  const char* name = "";
  // Of the sums, for the exactness class: sets with the same have the same bits.
  const char* order = "";
  // Whether this processor and system run it.
  bool (*supported)() = nullptr;
  PanelsAtOnce panels;
  // Rows and panels are filled up with zeros to a multiple of so many input features, an even
  // number.
  int input_multiple = 2;
  // x [cols] rounded to nearest even, a NaN to a quiet one, as pairs [PairsOf(cols)], and zeros up
  // to the multiple.
  void (*round_row)(const float* x, int64_t cols, uint32_t* pairs) = nullptr;
  void (*run)(const Bf16GemmTask& task) = nullptr;
  // The same source over a plain twin of each instruction: for tests, on machines that lack them.
  bool twin = false;
};

// Every set, the best first and the twins last.
std::span<const Bf16GemmKernels> Bf16GemmSets();
// The best that runs here and is no twin, or the one that a test asked for; null where there is
// none.
const Bf16GemmKernels* ChooseBf16Gemm();
// What ChooseBf16Gemm answers from now on; null: by itself again. For tests, on one thread.
void SetBf16GemmForTest(const Bf16GemmKernels* kernels);

}  // namespace t2r

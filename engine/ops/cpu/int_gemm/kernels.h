// Products with quantised weights (engine/ops/quantize.h): kernels of several instruction sets over
// one packed layout, and the choice between them.
//
// An activation is one byte or two. Two are 16-bit integers, x ≈ s_x (256 a + b) with a and b in
// −127 … 127, so that the products of a and those of b are two dot products over bytes: a plane of
// bytes each. One is a alone, x ≈ s_x a: half the dot products, and a coarser row.
//
// All sets give the same bits. Products are summed exactly in 32-bit integers, below
// 32 · 255 · 127 < 2²⁰ for each byte and below 2²⁹ together, and become float32 rounded once. What
// follows is a fixed sequence of single multiplications and additions, never fused: groups g = 0 …
// in order,
//   y += (s_w · s_x) · Σ q x, then with int4 y += m_w · (s_x Σ x); at the end + bias, then + out.
#pragma once

#include <cstdint>
#include <span>

#include "engine/ops/cpu/product.h"
#include "engine/ops/quantize.h"

namespace t2r {

// Output features of a panel, for every instruction set: a vector of 32-bit sums with AVX-512, two
// with AVX2, a tile's columns with AMX.
inline constexpr int64_t kIntPanel = 16;

// Of a row's group of activations x ≈ scale · q, q = 256 a + b or, with one plane, a.
struct alignas(16) ActivationGroup {
  float scale = 0;
  int32_t offset = 0;    // −kInt8Offset · Σ q: what unsigned int8 codes add too much, negated
  float scaled_sum = 0;  // scale · Σ q
};

// A group in a row of integers: its a, then, with two planes, its b, then its ActivationGroup.
constexpr int64_t GroupBytes(int planes) {
  return planes * kQuantGroup + static_cast<int64_t>(sizeof(ActivationGroup));
}

// A panel is one stretch of memory, which a kernel reads in order. For each block of 4 input
// features of a group it has the codes of feature 0, of feature 1, …, 64 bytes; with int4 the lower
// halves of bytes hold block b and the upper ones block b + 4. A group's 16 scales, bfloat16,
// feature by feature, stand in a line of 64 bytes before its codes: with int8 beside the next
// group's, whose codes follow too, with int4 beside its own 16 minimums. Scales in a place of their
// own would be a second stream from memory, too short for the processor to fetch ahead. So a
// one-row product reads MatrixBytes(N, K, dtype) bytes, and half a line a panel where int8 has an
// odd number of groups, which over the speed of memory is the least time it can take.
inline constexpr int64_t kScaleLine = 64;
constexpr int64_t GroupsOfLine(bool int4) { return int4 ? 1 : 2; }
constexpr int64_t GroupCodes(bool int4) { return kIntPanel * kQuantGroup / (int4 ? 2 : 1); }
// Bytes from the panel's begin to a group's codes, and from the group's scales to its codes.
constexpr int64_t CodesAt(int64_t group, bool int4) {
  return (group / GroupsOfLine(int4) + 1) * kScaleLine + group * GroupCodes(int4);
}
constexpr int64_t ScalesBefore(int64_t group, bool int4) {
  const int64_t groups = GroupsOfLine(int4);
  return kScaleLine + group % groups * (GroupCodes(int4) - kScaleLine / groups);
}
constexpr int64_t PanelBytes(int64_t groups, bool int4) {
  return (groups + GroupsOfLine(int4) - 1) / GroupsOfLine(int4) * kScaleLine +
         groups * GroupCodes(int4);
}

struct IntGemmTask : ProductTask {
  // Rows of GroupBytes(planes) a group, x_stride bytes apart.
  const int8_t* x = nullptr;
  int64_t x_stride = 0;
  int planes = 2;
  const uint8_t* panels = nullptr;
  int64_t panel_bytes = 0;
  bool int4 = false;
  int64_t groups = 0;
};

struct IntGemmKernels {
  const char* name = "";
  // Whether this processor and system run it.
  bool (*supported)() = nullptr;
  PanelsAtOnce panels;
  void (*run)(const IntGemmTask& task) = nullptr;
  // The same source over a plain twin of each instruction: for tests, on machines that lack them.
  bool twin = false;
};

// Every set, twins included, the best first.
std::span<const IntGemmKernels> IntGemmSets();
// The best that runs here and is no twin, or the one that a test asked for.
const IntGemmKernels& ChooseIntGemm();
// What ChooseIntGemm answers from now on; null: the best again. For tests, on one thread.
void SetIntGemmForTest(const IntGemmKernels* kernels);

// A row of activations as integers, cut into groups: x [cols] to row [QuantGroups(cols)], zeros
// behind the last activation, row aligned to 16 bytes. Of v = x · (127 / max|x|), a
// is the nearest integer, ties to even, and b that of 256 (v − a), at most 127; scale is max|x| /
// 127 with one plane, a 256th of that with two. A group below 1e-30 counts as zeros; NaN and
// infinities come out as scales that are not finite.
using QuantizeRowFn = void (*)(const float* x, int64_t cols, int8_t* row);
// planes: 1 or 2.
QuantizeRowFn ChooseQuantizeRow(int planes);

}  // namespace t2r

// What the tasks of every kind of matrix product say alike.
#pragma once

#include <cstdint>

namespace t2r {

// How tasks suit a kernel: how many panels it takes at a time, which they should hold a multiple
// of, `few` for at most few_rows rows and `many` for more.
struct PanelsAtOnce {
  int few_rows = 0;
  int few = 1;
  int many = 1;
  // From so many rows a thread on, threads share the rows rather than the panels, which then come
  // from memory once a thread. 0: never.
  int share_rows = 0;
};
// Of kernels that fetch ahead: fewer rows would not hide memory's time. Chosen by measurements with
// two threads. Float32's products, which do not fetch ahead, are slower with shares.
inline constexpr int kShareRows = 16;

// Rows [first_row, end_row) × panels first_panel + i · panel_step, i in [0, panel_count), of out =
// x Wᵀ, then + bias where there is one, then + what out held where it accumulates. A panel is a
// fixed number of output features. A step above 1 is for few rows alone.
struct ProductTask {
  int64_t n = 0;  // output features in all
  const float* bias = nullptr;
  bool accumulate = false;
  float* out = nullptr;
  int64_t out_stride = 0;
  int64_t first_row = 0;
  int64_t end_row = 0;
  int64_t first_panel = 0;
  int64_t panel_count = 0;
  int64_t panel_step = 1;
  // The panels [next_panel, next_end) with which the same thread likely goes on: fetched ahead.
  int64_t next_panel = 0;
  int64_t next_end = 0;
};

}  // namespace t2r

// What the tasks of every kind of matrix product say alike.
#pragma once

#include <cstdint>

namespace t2r {

// Rows [first_row, end_row) × panels [first_panel, end_panel) of out = x Wᵀ, then + bias where
// there is one, then + what out held where it accumulates. A panel is a fixed number of output
// features.
struct ProductTask {
  int64_t n = 0;  // output features in all
  const float* bias = nullptr;
  bool accumulate = false;
  float* out = nullptr;
  int64_t out_stride = 0;
  int64_t first_row = 0;
  int64_t end_row = 0;
  int64_t first_panel = 0;
  int64_t end_panel = 0;
  // Of all_panels that the matrix has, the one from which the same thread likely goes on: fetched
  // ahead. all_panels: none.
  int64_t next_panel = 0;
  int64_t all_panels = 0;
};

}  // namespace t2r

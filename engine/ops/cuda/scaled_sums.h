// The sums of a product of codes, and what makes them numbers again.
#pragma once

#include <cstdint>

namespace t2r::cuda {

// sums: rows `stride` long. Each is multiplied by the scale of its row and that of its output
// feature.
template <typename Sum>
struct ScaledSums {
  const Sum* sums = nullptr;
  int64_t stride = 0;
  const float* row_scales = nullptr;
  const float* channel_scales = nullptr;
  const float* bias = nullptr;  // null: none
  bool accumulate = false;
};

}  // namespace t2r::cuda

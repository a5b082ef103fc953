// Which matrices of a model in 4 bits stay in 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace t2r::convert {

struct WideningCost {
  double divergence = 0;  // nats a token that the matrix costs in 4 bits
  int64_t bytes = 0;      // that 8 bits take more
};

// Indices of the matrices to widen within `bytes`, those that save the most nats a byte first; one
// that does not fit any more is passed over for smaller ones. Matrices that cost nothing stay.
std::vector<size_t> ChooseWider(std::span<const WideningCost> matrices, int64_t bytes);

}  // namespace t2r::convert

// Rotary positions of a configuration: frequencies, and the order in which kernels see a head.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace t2r {

// RoPE's inverse frequencies [rotary_dim/2], scaling applied, in float64.
std::vector<double> RopeInverseFrequencies(const ModelConfig& config);
// What yarn and longrope multiply turned vectors by; else 1.
double RopeFactor(const ModelConfig& config);

// Kernels turn whole heads, pairs (i, i + head_dim/2). Where only the first rotary_dim values of a
// head turn, models load their queries and keys in another order, in which the pairs that turn come
// first and the others follow with the frequency 0.

// [head_dim]: value i of a head is the files' value HeadOrder[i]. Empty: no other order.
std::vector<int> HeadOrder(const ModelConfig& config);
// [head_dim/2], in that order.
std::vector<double> HeadFrequencies(const ModelConfig& config);

}  // namespace t2r

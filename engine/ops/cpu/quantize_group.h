// The codes of a group of weights, by a search that gives the same bits on every instruction set.
#pragma once

#include <cstdint>

#include "engine/ops/dtype.h"
#include "engine/ops/quantize.h"

namespace t2r {

// Quantises `count` ≤ kQuantGroup finite values as `dtype`, int8 or int4. Codes beyond `count` are
// those of zero in int8 and 0 in int4; what stands there must meet activations of zero.
//
// int8 takes of several scales about max|w| / 127, rounded up, the one with the least squared
// error: |w − ŵ| is at most one step, and the squares no more than what half of one such step would
// leave. int4 takes of several scales and minimums the one with the least squared error: the whole
// range in 15 steps, whose error is at most half of one, and ranges somewhat shorter and longer,
// each fitted to its codes by least squares.
QuantizedGroup QuantizeGroup(const float* values, int64_t count, DType dtype);

}  // namespace t2r

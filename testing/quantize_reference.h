// QuantizeGroup (engine/ops/cpu/quantize_group.h) in plain C++, one candidate after the other: what
// every instruction set must give, bit for bit.
#pragma once

#include <cstdint>

#include "engine/ops/dtype.h"
#include "engine/ops/quantize.h"

namespace t2r::testing {

QuantizedGroup ReferenceQuantizeGroup(const float* values, int64_t count, DType dtype);

}  // namespace t2r::testing

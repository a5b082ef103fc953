// The bfloat16 dot-product instruction at full speed, for peaks.cc.
#pragma once

#include <cstdint>

namespace t2r::bench {

bool HasBf16Dot();

// Runs rounds of independent dot products and returns the operations done. *sink keeps the result
// alive. Only where HasBf16Dot().
double Bf16Dots(int64_t rounds, float* sink);

}  // namespace t2r::bench

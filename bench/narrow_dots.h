// The dot-product instructions of narrow types at full speed, for peaks.cc.
#pragma once

#include <cstdint>

namespace t2r::bench {

bool HasBf16Dot();

// Runs rounds of independent dot products and returns the operations done. *sink keeps the result
// alive. Only where HasBf16Dot().
double Bf16Dots(int64_t rounds, float* sink);

// The same of bytes, summed in 32 bits (AVX512-VNNI).
bool HasInt8Dot();
double Int8Dots(int64_t rounds, float* sink);

}  // namespace t2r::bench

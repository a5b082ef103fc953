// t2r-bench-ops' lines of attention: decoding sessions, whose states come from memory, and prompts.
#pragma once

#include "bench/ops/harness.h"

namespace t2r::bench {

void BenchAttention(Harness& harness);

}  // namespace t2r::bench

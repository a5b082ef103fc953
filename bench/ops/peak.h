// What one machine can do: the floor that kernels are measured against.
#pragma once

#include <cstdint>

#include "engine/ops/backend.h"

namespace t2r {

// float32 multiply-adds of one thread over registers for a while; returns the operations done
// (a multiply-add counts two). The best vector unit Highway finds.
double BurnMultiplyAdds(int64_t rounds);
// Reads the memory once, one thread; returns a value that depends on all of it.
float ReadAll(const float* data, int64_t floats);

}  // namespace t2r

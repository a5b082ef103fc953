// The least time a decode step can take on a machine whose peaks are known.
#pragma once

#include <cstdint>

#include "bench/cost.h"
#include "bench/peaks.h"
#include "engine/ops/backend.h"

namespace t2r::bench {

struct FloorTypes {
  StepTypes kept;
  RowRounding rows = RowRounding::kNone;  // of products
};

// Operations a second of products with such weights: of bytes' dot products where they are
// quantised, two of them where rows have 16 bits; of bfloat16's where rows are bfloat16 too; else
// of float32 multiply-adds, as attention's are.
double ProductPeak(DType weights, RowRounding rows, const Peaks& peaks);

// Of CostOfDecodeStep's step, without the norms.
StepFloor FloorOfDecodeStep(const ModelConfig& config, const FloorTypes& types, const Peaks& peaks,
                            int sessions, int64_t position, int64_t source = 0);

}  // namespace t2r::bench

#include "bench/floor.h"

#include <algorithm>

namespace t2r::bench {

double ProductPeak(DType weights, RowRounding rows, const Peaks& peaks) {
  double peak = peaks.f32_gflop_per_s;
  if (weights == DType::kBFloat16 && rows == RowRounding::kBFloat16) {
    peak = std::max(peak, peaks.bf16_gflop_per_s);
  }
  if (IsQuantized(weights)) {
    peak = std::max(peak, peaks.int8_gop_per_s / (rows == RowRounding::kInt8 ? 1 : 2));
  }
  return peak * 1e9;
}

StepFloor FloorOfDecodeStep(const ModelConfig& config, const FloorTypes& types, const Peaks& peaks,
                            int sessions, int64_t position, int64_t source) {
  return FloorOfOperations(OperationsOfDecodeStep(config, types.kept, sessions, position, source),
                           peaks.read_gb_per_s * 1e9,
                           [&](DType weights) { return ProductPeak(weights, types.rows, peaks); });
}

}  // namespace t2r::bench

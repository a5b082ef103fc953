// What one decode step costs: the arithmetic and the memory traffic that no implementation can
// avoid. For floors in benchmarks.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace t2r {

struct StepCost {
  // Multiplications and additions of the matrix products and of attention (feature maps'
  // projections included). Norms, activations and exponentials are not counted: they are a few
  // operations an element.
  int64_t flops = 0;
  // Matrices, biases, norm weights and feature maps, each read once a step whatever the number of
  // sessions. The embedding rows that are looked up are not counted.
  int64_t weight_bytes = 0;
  // Recurrent states read and written; keys and values read and appended.
  int64_t state_bytes = 0;
};

// A step that decodes one token of each of `sessions` sessions, all at `position` (positions before
// it: position, so a full layer attends to position + 1 keys). weight_dtype: of the matrices;
// kv_dtype: of keys and values; source: tokens of each session's source, which an encoder-decoder's
// full cross attention reads (its encoder has run before).
StepCost CostOfDecodeStep(const ModelConfig& config, DType weight_dtype, int sessions,
                          int64_t position, DType kv_dtype = DType::kFloat32, int64_t source = 0);

// The same step's matrix products and attentions, each by itself, in their order, the head's last;
// without the norms' weights.
std::vector<StepCost> OperationsOfDecodeStep(const ModelConfig& config, DType weight_dtype,
                                             int sessions, int64_t position,
                                             DType kv_dtype = DType::kFloat32, int64_t source = 0);

}  // namespace t2r

// What one decode step costs: the arithmetic and the memory traffic that no implementation can
// avoid. For floors in benchmarks.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/model/config.h"

namespace t2r {

// How a step keeps what it reads.
struct StepTypes {
  DType weights = DType::kFloat32;  // of the matrices
  DType kv = DType::kFloat32;       // keys and values of full layers
  DType windows = DType::kFloat32;  // and of windows
};

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

// A matrix product or an attention.
struct StepOperation {
  StepCost cost;
  // A product's; attention's arithmetic is float32.
  DType weights = DType::kFloat32;
};

// A step that decodes one token of each of `sessions` sessions, all at `position` (positions before
// it: position, so a full layer attends to position + 1 keys). source: tokens of each session's
// source, which an encoder-decoder's full cross attention reads (its encoder has run before).
StepCost CostOfDecodeStep(const ModelConfig& config, const StepTypes& types, int sessions,
                          int64_t position, int64_t source = 0);

// The same step's matrix products and attentions, each by itself, in their order, the head's last;
// without the norms' weights.
std::vector<StepOperation> OperationsOfDecodeStep(const ModelConfig& config, const StepTypes& types,
                                                  int sessions, int64_t position,
                                                  int64_t source = 0);

// The least time of operations one after the other, if within each its arithmetic and its memory
// traffic overlap perfectly.
struct StepFloor {
  double compute_seconds = 0;  // of all operations
  double memory_seconds = 0;
  double seconds = 0;  // the sum of each operation's longer one
};

// flops_per_second: of an operation with such weights.
StepFloor FloorOfOperations(const std::vector<StepOperation>& operations, double bytes_per_second,
                            const std::function<double(DType)>& flops_per_second);

}  // namespace t2r

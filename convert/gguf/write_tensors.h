// Writes a plan's tensors as a safetensors file.
#pragma once

#include <functional>
#include <string>

#include "convert/gguf/model_plan.h"

namespace t2r::convert {

// IEEE 754 binary16, rounded to nearest, ties to even; values beyond its range become infinite.
uint16_t FloatToFloat16(float value);

// Writes every tensor in `dtype`, in the plan's order, a bounded piece at a time. `progress` is
// called before each tensor with the share of the values that is written. Throws ConvertError,
// which names the tensor, where a value is not finite or does not fit `dtype`.
void WritePlannedTensors(
    const std::string& path, const ModelPlan& plan, DType dtype,
    const std::function<void(double share, const std::string& name)>& progress);

}  // namespace t2r::convert

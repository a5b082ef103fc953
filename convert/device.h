// Where a model trains.
#pragma once

#include <torch/types.h>

#include <string>

namespace t2r::convert {

// "cpu" or "cuda". Throws ConvertError where this LibTorch or machine has no such device.
torch::Device ParseDevice(const std::string& name);

}  // namespace t2r::convert

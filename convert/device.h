// Where a model trains.
#pragma once

#include <torch/types.h>

#include <string>

namespace t2r::convert {

// "cpu", or "cuda": of `devices` GPUs, those from 0 on, the one of `rank`. Throws ConvertError
// where this LibTorch or machine does not have them.
torch::Device ParseDevice(const std::string& name, int devices = 1, int rank = 0);

}  // namespace t2r::convert

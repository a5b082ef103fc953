// The backend that the engine's tests run on.
#pragma once

#include <cstdlib>
#include <string>

namespace t2r::testing {

// cuda where the environment names its module (tests/cuda_emulator, or a device's), else cpu.
inline std::string ChosenBackend() {
  return std::getenv("T2R_CUDA_MODULE") != nullptr ? "cuda" : "cpu";
}

}  // namespace t2r::testing

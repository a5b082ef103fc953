// What the fuzzers call: 0, or 1 when something is wrong that no sanitizer would see. Built with
// -DT2R_FUZZ_SAFETENSORS or -DT2R_FUZZ_CONFIG their files also define LLVMFuzzerTestOneInput.
#pragma once

#include <cstddef>
#include <cstdint>

namespace t2r::testing {

int FuzzSafetensors(const uint8_t* data, size_t size);
int FuzzConfig(const uint8_t* data, size_t size);

}  // namespace t2r::testing

// The element types of GGUF's tensors. A quantised row is a sequence of blocks of a few values
// each, which share scales; a block never spans two rows.
#pragma once

#include <cstdint>
#include <string>

namespace t2r::convert {

struct GgufTensorType {
  uint32_t number;  // as files have it
  const char* name;
  int64_t block_values;
  int64_t block_bytes;
  // Writes a block's block_values values: the stored value exactly where the type is a float type,
  // otherwise scale · integer (and − or + a minimum), each operation rounded to float32 once.
  void (*dequantize)(const uint8_t* block, float* values);
};

// The type of this number; nullptr where it is not one of those that are read.
const GgufTensorType* FindGgufTensorType(uint32_t number);

// "IQ4_XS (23)", or "99" for a number that no version of the format has given a name.
std::string GgufTensorTypeName(uint32_t number);

// "F32, F16, …": the names of all types that are read.
std::string GgufTensorTypeNames();

}  // namespace t2r::convert

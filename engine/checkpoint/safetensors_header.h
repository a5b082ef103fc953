// The header of a safetensors file, parsed and checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as written: "F32", "BF16", "I64", …
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file's data
  uint64_t end = 0;
};

// Parses the JSON header of a file whose data is data_bytes long. Checked: names are unique, every
// entry has dtype, shape (at most 8 dimensions, no overflow) and data_offsets inside the data,
// entries cover the data without gap or overlap, and for dtypes of known width shape · width =
// bytes. Errors (INVALID_ARGUMENT) name the tensor. The text is read in one pass without building a
// tree, so what a hostile header can make us allocate is bounded by its length.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                     uint64_t data_bytes);

}  // namespace t2r

// A GGUF file: metadata, then tensors (the format is described in ggml's docs/gguf.md). Parsed in
// place: nothing is copied, so that what a file makes us allocate is a small multiple of its size.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "convert/gguf/tensor_type.h"

namespace t2r::convert {

enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Whether it is one of the integer types.
bool IsInteger(GgufValueType type);
// "uint32", "array", …
const char* NameOf(GgufValueType type);

// One value of the metadata, as it lies in the file.
struct GgufValue {
  GgufValueType type = GgufValueType::kUint8;
  GgufValueType element_type = GgufValueType::kUint8;  // of an array
  uint64_t count = 1;                                  // elements of an array
  // A number's bytes, a string's text, an array's elements: numbers one after another, strings each
  // with its length (64 bits) before it. All of it is inside the file.
  std::string_view bytes;
};

struct GgufTensor {
  const GgufTensorType* type = nullptr;
  std::vector<int64_t> shape;  // 1 to 4 dimensions, the slowest first (files have them reversed)
  std::string_view data;       // as many bytes as type and shape ask for
};

class GgufFile {
 public:
  // Checks all of it before anything is used: the magic number, the version (2 and 3), lengths and
  // counts, that no key and no tensor comes twice, that tensors are aligned, inside the file and do
  // not overlap. Throws ConvertError, which names the field and its offset. Borrows `bytes`.
  static GgufFile Parse(std::string_view bytes);

  const std::map<std::string_view, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string_view, GgufTensor>& tensors() const { return tensors_; }

 private:
  std::map<std::string_view, GgufValue> metadata_;
  std::map<std::string_view, GgufTensor> tensors_;
};

}  // namespace t2r::convert

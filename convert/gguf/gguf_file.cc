#include "convert/gguf/gguf_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"

namespace t2r::convert {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDimensions = 4;
constexpr size_t kMaxNameBytes = 65535;
// The least bytes of a key with its value, and of a tensor's description.
constexpr uint64_t kLeastKeyBytes = 8 + 4 + 1;
constexpr uint64_t kLeastTensorBytes = 8 + 4 + 8 + 4 + 8;

// Bytes of a number; 0 for strings, arrays and what is no type.
uint64_t NumberBytes(uint32_t type) {
  constexpr uint8_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

uint32_t Swapped(uint32_t value) {
  return value >> 24 | (value >> 8 & 0xff00) | (value << 8 & 0xff0000) | value << 24;
}

void CheckVersion(GgufCursor& cursor) {
  if (cursor.Take(4, "the magic number") != kMagic) {
    cursor.Fail("the magic number", "is not GGUF's (not a GGUF file)");
  }
  const uint32_t version = cursor.Uint32("version");
  if (version == 2 || version == 3) return;
  if (Swapped(version) == 2 || Swapped(version) == 3) {
    cursor.Fail("version", "the file is big-endian, which is not supported");
  }
  cursor.Fail("version", "is " + std::to_string(version) + "; supported are 2 and 3");
}

void CheckBools(const GgufCursor& cursor, std::string_view bytes, const std::string& name) {
  for (const char value : bytes) {
    if (value != 0 && value != 1) cursor.Fail(name, "is neither false (0) nor true (1)");
  }
}

GgufValueType ReadType(GgufCursor& cursor, const std::string& name) {
  const uint32_t type = cursor.Uint32(name);
  if (type > static_cast<uint32_t>(GgufValueType::kFloat64)) {
    cursor.Fail(name, "is " + std::to_string(type) + ", which is no type that this version knows");
  }
  return static_cast<GgufValueType>(type);
}

// The value of the key `name`.
GgufValue ReadValue(GgufCursor& cursor, std::string_view bytes, const std::string& name) {
  GgufValue value;
  value.type = ReadType(cursor, name + "'s type");
  if (value.type == GgufValueType::kString) {
    value.bytes = cursor.String(name);
    return value;
  }
  if (value.type != GgufValueType::kArray) {
    value.bytes = cursor.Take(NumberBytes(static_cast<uint32_t>(value.type)), name);
    if (value.type == GgufValueType::kBool) CheckBools(cursor, value.bytes, name);
    return value;
  }
  value.element_type = ReadType(cursor, name + "'s element type");
  if (value.element_type == GgufValueType::kArray) {
    cursor.Fail(name, "is an array of arrays, which is not supported");
  }
  const uint64_t width = NumberBytes(static_cast<uint32_t>(value.element_type));
  if (width != 0) {
    value.count = cursor.Count(width, name + "'s count");
    value.bytes = cursor.Take(value.count * width, name);
    if (value.element_type == GgufValueType::kBool) CheckBools(cursor, value.bytes, name);
    return value;
  }
  value.count = cursor.Count(8, name + "'s count");
  const uint64_t begin = cursor.offset();
  for (uint64_t i = 0; i < value.count; ++i) cursor.String(name + "[" + std::to_string(i) + "]");
  value.bytes = bytes.substr(begin, cursor.offset() - begin);
  return value;
}

std::string_view ReadName(GgufCursor& cursor, const std::string& what) {
  const std::string_view name = cursor.String(what);
  if (name.empty()) cursor.Fail(what, "is empty");
  if (name.size() > kMaxNameBytes) {
    cursor.Fail(what, "has " + std::to_string(name.size()) + " bytes; at most " +
                          std::to_string(kMaxNameBytes));
  }
  return name;
}

uint32_t AlignmentOf(const std::map<std::string_view, GgufValue>& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const GgufValue& value = found->second;
  if (value.type != GgufValueType::kUint32) {
    throw ConvertError("general.alignment must be a uint32, not " +
                       std::string(NameOf(value.type)));
  }
  const uint32_t alignment = GgufCursor(value.bytes).Uint32("general.alignment");
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
    throw ConvertError("general.alignment is " + std::to_string(alignment) +
                       "; it must be a power of two up to " + std::to_string(kMaxAlignment));
  }
  return alignment;
}

// A tensor as the file describes it, before the place of the data is known.
struct Description {
  std::string_view name;
  std::string shown;  // "tensor NAME"
  GgufTensor tensor;
  uint64_t begin = 0, bytes = 0;  // in the data
};

Description ReadTensor(GgufCursor& cursor, uint64_t index) {
  Description read;
  read.name = ReadName(cursor, "the name of tensor " + std::to_string(index));
  read.shown = "tensor " + Printable(read.name);
  const std::string dimensions_name = read.shown + ": number of dimensions";
  const uint32_t dimensions = cursor.Uint32(dimensions_name);
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    cursor.Fail(dimensions_name, "is " + std::to_string(dimensions) + "; it must be 1 to " +
                                     std::to_string(kMaxDimensions));
  }
  uint64_t values = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const std::string name = read.shown + ": dimension " + std::to_string(i);
    const uint64_t size = cursor.Uint64(name);
    // 2^56 values of four bytes are still counted in 64 bits.
    if (size < 1 || size > (uint64_t{1} << 56) / values) {
      cursor.Fail(name, "is " + std::to_string(size) +
                            "; it must be at least 1 and the tensor at most 2^56 values");
    }
    values *= size;
    read.tensor.shape.insert(read.tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const std::string type_name = read.shown + ": type";
  const uint32_t type = cursor.Uint32(type_name);
  read.tensor.type = FindGgufTensorType(type);
  if (read.tensor.type == nullptr) {
    cursor.Fail(type_name,
                "is " + GgufTensorTypeName(type) + "; supported are " + GgufTensorTypeNames());
  }
  const auto block = static_cast<uint64_t>(read.tensor.type->block_values);
  if (read.tensor.shape.back() % static_cast<int64_t>(block) != 0) {
    cursor.Fail(type_name, std::string("is ") + read.tensor.type->name + ", whose blocks of " +
                               std::to_string(block) + " do not fill rows of " +
                               std::to_string(read.tensor.shape.back()) + " values");
  }
  read.bytes = values / block * static_cast<uint64_t>(read.tensor.type->block_bytes);
  read.begin = cursor.Uint64(read.shown + ": offset");
  return read;
}

// Gives each tensor its data, which begin at `data_begin` in the file.
void PlaceTensors(std::string_view data, uint64_t data_begin, uint32_t alignment,
                  std::vector<Description>* tensors) {
  std::vector<Description*> order;
  order.reserve(tensors->size());
  for (Description& tensor : *tensors) {
    const std::string at = ": offset " + std::to_string(tensor.begin) +
                           " in the data (which begin at " + std::to_string(data_begin) + ") ";
    if (tensor.begin % alignment != 0) {
      throw ConvertError(tensor.shown + at + "is not a multiple of the alignment " +
                         std::to_string(alignment));
    }
    if (tensor.begin > data.size() || tensor.bytes > data.size() - tensor.begin) {
      throw ConvertError(tensor.shown + at + "and " + std::to_string(tensor.bytes) +
                         " bytes lead beyond the file, whose data have " +
                         std::to_string(data.size()) + " (truncated?)");
    }
    tensor.tensor.data = data.substr(tensor.begin, tensor.bytes);
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(),
            [](const Description* a, const Description* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->begin + order[i - 1]->bytes) {
      throw ConvertError(order[i]->shown + ": offset " + std::to_string(order[i]->begin) +
                         " in the data overlaps " + order[i - 1]->shown);
    }
  }
}

}  // namespace

bool IsInteger(GgufValueType type) {
  return type <= GgufValueType::kInt32 || type == GgufValueType::kUint64 ||
         type == GgufValueType::kInt64;
}

const char* NameOf(GgufValueType type) {
  constexpr const char* kNames[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                    "int32",  "float32", "bool",   "string", "array",
                                    "uint64", "int64",   "float64"};
  return kNames[static_cast<size_t>(type)];
}

GgufFile GgufFile::Parse(std::string_view bytes) {
  GgufFile file;
  GgufCursor cursor(bytes);
  CheckVersion(cursor);
  const uint64_t tensor_count = cursor.Count(kLeastTensorBytes, "the number of tensors");
  const uint64_t key_count = cursor.Count(kLeastKeyBytes, "the number of metadata keys");
  for (uint64_t i = 0; i < key_count; ++i) {
    const std::string what = "metadata key " + std::to_string(i);
    const std::string_view key = ReadName(cursor, what);
    if (file.metadata_.contains(key)) cursor.Fail(what, "repeats " + Printable(key));
    file.metadata_.emplace(key, ReadValue(cursor, bytes, Printable(key)));
  }
  std::vector<Description> tensors;
  for (uint64_t i = 0; i < tensor_count; ++i) tensors.push_back(ReadTensor(cursor, i));

  const uint32_t alignment = AlignmentOf(file.metadata_);
  const uint64_t data_begin = (cursor.offset() + alignment - 1) / alignment * alignment;
  PlaceTensors(data_begin < bytes.size() ? bytes.substr(data_begin) : std::string_view(),
               data_begin, alignment, &tensors);
  for (Description& tensor : tensors) {
    if (!file.tensors_.emplace(tensor.name, std::move(tensor.tensor)).second) {
      throw ConvertError(tensor.shown + " comes twice");
    }
  }
  return file;
}

}  // namespace t2r::convert

#include "convert/gguf/metadata.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"
#include "engine/text/utf8.h"

namespace t2r::convert {
namespace {

using Type = GgufValueType;

[[noreturn]] void Fail(std::string_view key, const std::string& problem) {
  throw ConvertError(Printable(key) + " " + problem);
}

[[noreturn]] void WrongType(std::string_view key, const GgufValue& value, const char* wanted) {
  Fail(key, std::string("must be ") + wanted + ", not " + NameOf(value.type));
}

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t bits = 0;
  for (size_t i = bytes.size(); i > 0; --i) bits = bits << 8 | static_cast<uint8_t>(bytes[i - 1]);
  return bits;
}

// An integer of `type`; those beyond int64 become its greatest, which no range here includes.
int64_t IntegerOf(Type type, std::string_view bytes) {
  const uint64_t bits = LittleEndian(bytes);
  switch (type) {
    case Type::kInt8:
      return static_cast<int8_t>(bits);
    case Type::kInt16:
      return static_cast<int16_t>(bits);
    case Type::kInt32:
      return static_cast<int32_t>(bits);
    case Type::kInt64:
      return static_cast<int64_t>(bits);
    default:
      return bits > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(bits);
  }
}

float Float32Of(std::string_view bytes) {
  return std::bit_cast<float>(static_cast<uint32_t>(LittleEndian(bytes)));
}

double Decimal(float value) {
  if (!std::isfinite(value)) return value;
  char text[32];
  const auto written = std::to_chars(text, text + sizeof(text), value);
  double decimal = 0;
  std::from_chars(text, written.ptr, decimal);
  return decimal;
}

double NumberOf(const GgufValue& value) {
  return value.type == Type::kFloat32 ? Decimal(Float32Of(value.bytes))
                                      : std::bit_cast<double>(LittleEndian(value.bytes));
}

int64_t InRange(std::string_view key, int64_t number, int64_t low, int64_t high) {
  if (number < low || number > high) {
    Fail(key, "is " + std::to_string(number) + "; it must be from " + std::to_string(low) + " to " +
                  std::to_string(high));
  }
  return number;
}

}  // namespace

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto found = file_.metadata().find(key);
  return found == file_.metadata().end() ? nullptr : &found->second;
}

const GgufValue* GgufMetadata::Value(std::string_view key, bool may_be_absent) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && !may_be_absent) Fail(key, "is missing");
  return value;
}

const GgufValue& GgufMetadata::Array(std::string_view key) const {
  const GgufValue* value = Value(key, false);
  if (value->type != Type::kArray) WrongType(key, *value, "an array");
  return *value;
}

int64_t GgufMetadata::Integer(std::string_view key, int64_t low, int64_t high,
                              std::optional<int64_t> absent) const {
  const GgufValue* value = Value(key, absent.has_value());
  if (value == nullptr) return *absent;
  if (!IsInteger(value->type)) WrongType(key, *value, "an integer");
  return InRange(key, IntegerOf(value->type, value->bytes), low, high);
}

int64_t GgufMetadata::LayersInteger(std::string_view key, int64_t low, int64_t high,
                                    std::optional<int64_t> absent) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || value->type != Type::kArray) return Integer(key, low, high, absent);
  const std::vector<int64_t> layers = Integers(key);
  if (layers.empty()) Fail(key, "is an empty array");
  for (const int64_t layer : layers) {
    if (layer != layers[0]) {
      Fail(key, "differs between layers (" + std::to_string(layers[0]) + " and " +
                    std::to_string(layer) + "), which is not supported");
    }
  }
  return InRange(key, layers[0], low, high);
}

double GgufMetadata::Number(std::string_view key, double low, double high,
                            std::optional<double> absent) const {
  const GgufValue* value = Value(key, absent.has_value());
  if (value == nullptr) return *absent;
  if (value->type != Type::kFloat32 && value->type != Type::kFloat64) {
    WrongType(key, *value, "a float32 or float64");
  }
  const double number = NumberOf(*value);
  if (!(number >= low && number <= high)) {
    char range[96];
    std::snprintf(range, sizeof(range), "is %g; it must be from %g to %g", number, low, high);
    Fail(key, range);
  }
  return number;
}

bool GgufMetadata::Bool(std::string_view key, bool absent) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return absent;
  if (value->type != Type::kBool) WrongType(key, *value, "a bool");
  return value->bytes[0] != 0;
}

std::string GgufMetadata::String(std::string_view key,
                                 const std::optional<std::string>& absent) const {
  const GgufValue* value = Value(key, absent.has_value());
  if (value == nullptr) return *absent;
  if (value->type != Type::kString) WrongType(key, *value, "a string");
  const size_t invalid = FindInvalidUtf8(value->bytes);
  if (invalid != std::string_view::npos) {
    Fail(key, "is not valid UTF-8 at byte " + std::to_string(invalid));
  }
  return std::string(value->bytes);
}

std::vector<std::string_view> GgufMetadata::Strings(std::string_view key) const {
  const GgufValue& array = Array(key);
  if (array.element_type != Type::kString) Fail(key, "must be an array of strings");
  std::vector<std::string_view> strings;
  strings.reserve(array.count);
  GgufCursor cursor(array.bytes);
  const std::string name = Printable(key);
  for (uint64_t i = 0; i < array.count; ++i) strings.push_back(cursor.String(name));
  return strings;
}

std::vector<int64_t> GgufMetadata::Integers(std::string_view key) const {
  const GgufValue& array = Array(key);
  if (!IsInteger(array.element_type)) Fail(key, "must be an array of integers");
  std::vector<int64_t> integers;
  integers.reserve(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    const size_t width = array.bytes.size() / array.count;
    integers.push_back(IntegerOf(array.element_type, array.bytes.substr(i * width, width)));
  }
  return integers;
}

std::vector<float> GgufMetadata::Floats(std::string_view key) const {
  const GgufValue& array = Array(key);
  if (array.element_type != Type::kFloat32) Fail(key, "must be an array of float32");
  std::vector<float> floats;
  floats.reserve(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    floats.push_back(Float32Of(array.bytes.substr(i * 4, 4)));
    if (!std::isfinite(floats.back())) {
      Fail(key, "holds a number that is not finite at " + std::to_string(i));
    }
  }
  return floats;
}

std::optional<double> GgufMetadata::AnyNumber(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type == Type::kBool) return value->bytes[0];
  if (IsInteger(value->type)) return static_cast<double>(IntegerOf(value->type, value->bytes));
  if (value->type != Type::kFloat32 && value->type != Type::kFloat64) {
    WrongType(key, *value, "a number");
  }
  return NumberOf(*value);
}

}  // namespace t2r::convert

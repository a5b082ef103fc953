// Typed, checked access to a GGUF file's metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/gguf/gguf_file.h"

namespace t2r::convert {

// Every getter throws ConvertError naming the key where it is missing (and there is no default), of
// another type, or out of range. Borrows the file.
class GgufMetadata {
 public:
  explicit GgufMetadata(const GgufFile& file) : file_(file) {}

  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  // Of any integer type, in [low, high].
  int64_t Integer(std::string_view key, int64_t low, int64_t high,
                  std::optional<int64_t> absent = std::nullopt) const;
  // The same; or an array of equal integers, as files have it whose layers could differ.
  int64_t LayersInteger(std::string_view key, int64_t low, int64_t high,
                        std::optional<int64_t> absent = std::nullopt) const;
  // A float32 or float64, finite and in [low, high]. The double is the one whose decimal form is
  // the shortest that gives the stored float32 back: 1e-05, not 9.999999747378752e-06.
  double Number(std::string_view key, double low, double high,
                std::optional<double> absent = std::nullopt) const;
  bool Bool(std::string_view key, bool absent) const;
  // Valid UTF-8.
  std::string String(std::string_view key,
                     const std::optional<std::string>& absent = std::nullopt) const;
  // An array's elements; strings need not be valid UTF-8.
  std::vector<std::string_view> Strings(std::string_view key) const;
  std::vector<int64_t> Integers(std::string_view key) const;
  std::vector<float> Floats(std::string_view key) const;
  // An integer, a number or a truth value as a number; nullopt where absent.
  std::optional<double> AnyNumber(std::string_view key) const;

 private:
  const GgufValue* Find(std::string_view key) const;
  // The value; nullptr where it is absent and may be.
  const GgufValue* Value(std::string_view key, bool may_be_absent) const;
  const GgufValue& Array(std::string_view key) const;

  const GgufFile& file_;
};

}  // namespace t2r::convert

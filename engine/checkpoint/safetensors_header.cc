#include "engine/checkpoint/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

constexpr size_t kMaxDimensions = 8;

// Follows the one structure a header may have, {name: {dtype, shape, data_offsets}, …} with
// __metadata__ among the names, and stops at the first thing that does not belong there.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<SafetensorsEntry> entries;
  std::string error;

  bool start_object(size_t) override {
    if (depth_ == 0 && !done_) {
      depth_ = 1;
      return true;
    }
    if (depth_ == 1 && array_ == nullptr) {
      depth_ = 2;
      has_dtype_ = has_shape_ = has_offsets_ = false;
      offsets_.clear();
      return true;
    }
    return Fail("an object where none belongs");
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      in_metadata_ = name == "__metadata__";
      entry_ = SafetensorsEntry();
      entry_.name = name;
    }
    field_ = depth_ == 2 ? name : string_t();
    return true;
  }
  bool end_object() override {
    if (depth_ == 1) {
      depth_ = 0;
      done_ = true;
      return true;
    }
    depth_ = 1;
    if (in_metadata_) return true;
    if (!has_dtype_) return Fail("dtype is missing");
    if (!has_shape_) return Fail("shape is missing");
    if (!has_offsets_ || offsets_.size() != 2) return Fail("data_offsets must be two integers");
    entry_.begin = static_cast<uint64_t>(offsets_[0]);
    entry_.end = static_cast<uint64_t>(offsets_[1]);
    entries.push_back(std::move(entry_));
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ != 2 || array_ != nullptr || in_metadata_)
      return Fail("an array where none belongs");
    if (field_ == "shape" && !has_shape_) {
      has_shape_ = true;
      array_ = &entry_.shape;
    } else if (field_ == "data_offsets" && !has_offsets_) {
      has_offsets_ = true;
      array_ = &offsets_;
    } else {
      return Fail("an array where none belongs");
    }
    return true;
  }
  bool end_array() override {
    array_ = nullptr;
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ != 2 || array_ != nullptr || field_ != "dtype" || has_dtype_) {
      return Fail("a string where none belongs");
    }
    has_dtype_ = true;
    entry_.dtype = value;
    return true;
  }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return Fail("a number out of range");
    return Add(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t, const string_t&) override {
    return Fail("a fraction where an integer belongs");
  }
  bool null() override {
    // "__metadata__": null is as good as none.
    if (depth_ == 1 && in_metadata_) return true;
    return Fail("null where a value belongs");
  }
  bool boolean(bool) override { return Fail("a boolean where none belongs"); }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    if (error.empty()) error = absl::StrCat("not valid JSON at byte ", position, " of the header");
    return false;
  }

 private:
  bool Add(int64_t value) {
    if (array_ == nullptr) return Fail("a number where none belongs");
    if (value < 0) return Fail("a negative number");
    if (array_->size() == kMaxDimensions) return Fail("more than 8 numbers in a list");
    array_->push_back(value);
    return true;
  }
  bool Fail(const std::string& problem) {
    error = depth_ > 0 && !entry_.name.empty() ? absl::StrCat("tensor ", entry_.name, ": ", problem)
                                               : problem;
    return false;
  }

  int depth_ = 0;
  bool done_ = false;
  bool in_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::string field_;
  SafetensorsEntry entry_;
  std::vector<int64_t> offsets_;
  std::vector<int64_t>* array_ = nullptr;  // where numbers go now
};

// Bytes an element; 0 for types of unknown width.
uint64_t WidthOf(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E4M3" ||
      dtype == "F8_E5M2") {
    return 1;
  }
  return 0;
}

absl::Status CheckEntry(const SafetensorsEntry& entry, uint64_t data_bytes) {
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", entry.name, ": data_offsets [", entry.begin, ", ", entry.end,
                     "] are outside the ", data_bytes, " bytes of data (is the file truncated?)"));
  }
  const uint64_t width = WidthOf(entry.dtype);
  if (width == 0) return absl::OkStatus();
  uint64_t bytes = width;
  for (const int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", entry.name, ": shape is too large"));
    }
  }
  if (bytes != entry.end - entry.begin) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, ": shape and dtype need ",
                                                   bytes, " bytes, data_offsets hold ",
                                                   entry.end - entry.begin));
  }
  return absl::OkStatus();
}

// Every byte of the data belongs to one tensor: whoever hides something there, or lost a tensor, is
// found out.
absl::Status CheckCover(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  std::vector<const SafetensorsEntry*> by_offset;
  by_offset.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t covered = 0;
  const SafetensorsEntry* before = nullptr;
  for (const SafetensorsEntry* entry : by_offset) {
    if (entry->begin < covered) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensors ", before->name, " and ", entry->name, " share data"));
    }
    if (entry->begin > covered) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", entry->name, ": the bytes [", covered, ", ", entry->begin,
                       ") of the data before it belong to no tensor"));
    }
    covered = entry->end;
    before = entry;
  }
  if (covered == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the last ", data_bytes - covered, " of the ",
                                                 data_bytes, " bytes of data belong to no tensor"));
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                     uint64_t data_bytes) {
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) {
    return absl::InvalidArgumentError(reader.error);
  }
  std::vector<SafetensorsEntry>& entries = reader.entries;
  for (const SafetensorsEntry& entry : entries) {
    const absl::Status status = CheckEntry(entry, data_bytes);
    if (!status.ok()) return status;
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].name == entries[i - 1].name) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", entries[i].name, ": named more than once"));
    }
  }
  const absl::Status covered = CheckCover(entries, data_bytes);
  if (!covered.ok()) return covered;
  return std::move(reader.entries);
}

}  // namespace t2r

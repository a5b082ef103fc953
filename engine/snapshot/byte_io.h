// Numbers and lists as bytes, little-endian, and back from bytes that may come from anyone.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/sampling/params.h"

namespace t2r {

static_assert(std::endian::native == std::endian::little);

class ByteWriter {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  // With its length before it.
  void Bytes(const void* data, size_t size) {
    Number<uint64_t>(size);
    if (size > 0) out_.append(static_cast<const char*>(data), size);
  }
  void Bytes(std::string_view text) { Bytes(text.data(), text.size()); }
  void Raw(std::string_view text) { out_.append(text); }
  void Reserve(size_t size) { out_.reserve(size); }
  std::string& out() { return out_; }

 private:
  std::string out_;
};

// Reads what ByteWriter wrote; after the first thing that is not there everything is zero or empty,
// and fault() says what it was.
class ByteReader {
 public:
  // what: the bytes' name in messages.
  explicit ByteReader(std::string_view bytes, const char* what = "the snapshot")
      : bytes_(bytes), what_(what) {}

  template <typename T>
  T Number(const char* field) {
    T value = {};
    const std::string_view raw = Take(field, sizeof value);
    if (!raw.empty()) std::memcpy(&value, raw.data(), sizeof value);
    return value;
  }
  bool Flag(const char* field) {
    const auto value = Number<uint8_t>(field);
    if (value > 1) Refuse(field, absl::StrCat("is ", int{value}, ", neither 0 nor 1"));
    return value == 1;
  }
  // The length of a list of entries of at least `entry_bytes` each: no more than there is room for.
  size_t Count(const char* field, uint64_t most, size_t entry_bytes) {
    const auto count = Number<uint64_t>(field);
    if (count > most) {
      Refuse(field, absl::StrCat("has the length ", count, ", more than ", most));
    } else if (count > bytes_.size() / entry_bytes) {
      Refuse(field, absl::StrCat("has the length ", count, ", more than what is left holds"));
    }
    return fault_.ok() ? static_cast<size_t>(count) : 0;
  }
  std::string_view Bytes(const char* field, uint64_t most) {
    const size_t size = Count(field, most, 1);
    return Take(field, size);
  }
  void Exactly(const char* field, size_t size, std::vector<std::byte>* out) {
    const auto count = Number<uint64_t>(field);
    if (fault_.ok() && count != size) {
      Refuse(field, absl::StrCat("has ", count, " bytes; this model's has ", size));
    }
    const std::string_view raw = Take(field, size);
    if (!fault_.ok()) return;
    const auto* data = reinterpret_cast<const std::byte*>(raw.data());
    out->assign(data, data + raw.size());
  }
  void Refuse(const char* field, const std::string& why) {
    if (!fault_.ok()) return;
    fault_ = absl::InvalidArgumentError(absl::StrCat(what_, "'s ", field, " ", why));
  }
  bool ok() const { return fault_.ok(); }
  const absl::Status& fault() const { return fault_; }
  size_t left() const { return bytes_.size(); }

 private:
  std::string_view Take(const char* field, size_t size) {
    if (size > bytes_.size()) Refuse(field, "is not there: it ends before");
    if (!fault_.ok()) return {};
    const std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  std::string_view bytes_;
  const char* what_;
  absl::Status fault_;
};

// How a request samples, as snapshots and turns have it. Ranges are not checked here: the scheduler
// checks them with every request.
void WriteSampling(const SamplingParams& sampling, ByteWriter* out);
SamplingParams ReadSampling(ByteReader& in);

}  // namespace t2r

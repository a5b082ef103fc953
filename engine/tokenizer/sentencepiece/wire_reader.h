// Reads Protobuf's wire format, for the one message that must be read beside another library's own
// copy of Protobuf.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace t2r {

// Walks the fields of one message. After Next() returned true, `field` says which, and one of
// `number` (varint, fixed) and `bytes` (length-delimited) holds the value.
class WireReader {
 public:
  enum class Kind : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  explicit WireReader(std::string_view message) : rest_(message) {}

  bool Next() {
    if (rest_.empty() || failed_) return false;
    uint64_t tag = 0;
    if (!Varint(&tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX) return Fail();
    field = static_cast<uint32_t>(tag >> 3);
    kind = static_cast<Kind>(tag & 7);
    switch (kind) {
      case Kind::kVarint:
        return Varint(&number) || Fail();
      case Kind::kFixed64:
        return Fixed(8) || Fail();
      case Kind::kFixed32:
        return Fixed(4) || Fail();
      case Kind::kBytes: {
        uint64_t size = 0;
        if (!Varint(&size) || size > rest_.size()) return Fail();
        bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return true;
      }
    }
    return Fail();  // groups, and kinds that do not exist
  }
  bool failed() const { return failed_; }

  // Whether the field is `wanted_field`, of kind `wanted_kind`.
  bool Is(uint32_t wanted_field, Kind wanted_kind) const {
    return field == wanted_field && kind == wanted_kind;
  }
  float AsFloat() const {
    const auto bits = static_cast<uint32_t>(number);
    float value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  uint32_t field = 0;
  Kind kind = Kind::kVarint;
  uint64_t number = 0;
  std::string_view bytes;

 private:
  bool Fail() {
    failed_ = true;
    return false;
  }
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Fixed(size_t size) {
    if (rest_.size() < size) return false;
    number = 0;
    for (size_t i = 0; i < size; ++i) {
      number |= static_cast<uint64_t>(static_cast<uint8_t>(rest_[i])) << (8 * i);
    }
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_;
  bool failed_ = false;
};

}  // namespace t2r

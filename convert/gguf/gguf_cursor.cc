#include "convert/gguf/gguf_cursor.h"

#include <algorithm>
#include <cstdio>

#include "convert/error.h"

namespace t2r::convert {
namespace {

constexpr size_t kShownBytes = 64;

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i > 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i - 1]);
  return value;
}

}  // namespace

std::string_view GgufCursor::Take(uint64_t size, const std::string& name) {
  begin_ = offset_;
  if (size > left()) {
    Fail(name, "takes " + std::to_string(size) + " bytes, but only " + std::to_string(left()) +
                   " of the file are left (truncated?)");
  }
  const std::string_view taken = bytes_.substr(offset_, size);
  offset_ += size;
  return taken;
}

uint32_t GgufCursor::Uint32(const std::string& name) {
  return static_cast<uint32_t>(LittleEndian(Take(4, name)));
}

uint64_t GgufCursor::Uint64(const std::string& name) { return LittleEndian(Take(8, name)); }

std::string_view GgufCursor::String(const std::string& name) {
  return Take(Uint64(name + "'s length"), name);
}

uint64_t GgufCursor::Count(uint64_t least_bytes, const std::string& name) {
  const uint64_t count = Uint64(name);
  if (count > left() / least_bytes) {
    Fail(name, "is " + std::to_string(count) + ", which needs at least " +
                   std::to_string(least_bytes) + " bytes each; " + std::to_string(left()) +
                   " of the file are left");
  }
  return count;
}

void GgufCursor::Fail(const std::string& name, const std::string& problem) const {
  throw ConvertError(name + " at offset " + std::to_string(begin_) + ": " + problem);
}

std::string Printable(std::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, kShownBytes)) {
    if (c >= ' ' && c <= '~') {
      shown += c;
    } else {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02X",
                    static_cast<unsigned>(static_cast<uint8_t>(c)));
      shown += escape;
    }
  }
  return text.size() > kShownBytes ? shown + "…" : shown;
}

}  // namespace t2r::convert

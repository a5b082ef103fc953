#include "engine/text/utf8.h"

#include <algorithm>

namespace t2r {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// What a lead byte asks for: the sequence's length (0: not a lead byte) and the range of the second
// byte (Unicode Standard, table 3-7).
struct Lead {
  uint8_t length;
  uint8_t lowest;
  uint8_t highest;
};

Lead Classify(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const Lead lead = Classify(static_cast<uint8_t>(text[i]));
    if (lead.length == 0 || lead.length > text.size() - i) return i;
    for (size_t k = 1; k < lead.length; ++k) {
      const auto byte = static_cast<uint8_t>(text[i + k]);
      const uint8_t lowest = k == 1 ? lead.lowest : 0x80;
      const uint8_t highest = k == 1 ? lead.highest : 0xBF;
      if (byte < lowest || byte > highest) return i;
    }
    i += lead.length;
  }
  return std::string_view::npos;
}

uint32_t NextCodePoint(std::string_view text, size_t* position) {
  const auto byte = [&](size_t k) { return static_cast<uint8_t>(text[*position + k]); };
  const uint8_t first = byte(0);
  if (first < 0x80) {
    *position += 1;
    return first;
  }
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  uint32_t value = first & (0xFFu >> (length + 1));
  for (size_t k = 1; k < length; ++k) value = value << 6 | (byte(k) & 0x3Fu);
  *position += length;
  return value;
}

void AppendCodePoint(uint32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
    return;
  }
  const int continuation = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
  const uint32_t mark = continuation == 1 ? 0xC0 : continuation == 2 ? 0xE0 : 0xF0;
  out->push_back(static_cast<char>(mark | code_point >> (6 * continuation)));
  for (int k = continuation - 1; k >= 0; --k) {
    out->push_back(static_cast<char>(0x80 | (code_point >> (6 * k) & 0x3F)));
  }
}

void Utf8Sanitizer::Append(std::string_view bytes, std::string* out) {
  // ASCII, which most bytes are, goes as it is.
  const auto* const ascii_end =
      size_ > 0 ? bytes.begin() : std::find_if(bytes.begin(), bytes.end(), [](char c) {
        return static_cast<uint8_t>(c) >= 0x80;
      });
  out->append(bytes.begin(), ascii_end);
  bytes.remove_prefix(static_cast<size_t>(ascii_end - bytes.begin()));
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    if (size_ == 0) {
      Begin(byte, out);
    } else if (byte >= lowest_ && byte <= highest_) {
      pending_[size_++] = c;
      lowest_ = 0x80;
      highest_ = 0xBF;
      if (size_ == need_) {
        out->append(pending_, size_);
        size_ = 0;
      }
    } else {
      out->append(kReplacement);
      Begin(byte, out);
    }
  }
}

void Utf8Sanitizer::Begin(uint8_t byte, std::string* out) {
  const Lead lead = Classify(byte);
  size_ = 0;
  if (lead.length == 1) {
    out->push_back(static_cast<char>(byte));
  } else if (lead.length == 0) {
    out->append(kReplacement);
  } else {
    pending_[0] = static_cast<char>(byte);
    size_ = 1;
    need_ = lead.length;
    lowest_ = lead.lowest;
    highest_ = lead.highest;
  }
}

void Utf8Sanitizer::Finish(std::string* out) {
  if (size_ > 0) out->append(kReplacement);
  size_ = 0;
}

}  // namespace t2r

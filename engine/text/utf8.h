// UTF-8: checking, decoding and making bytes valid. Terms as in the Unicode Standard, 3.9.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace t2r {

// The offset of the first byte that does not begin a well-formed sequence; npos when all is valid.
size_t FindInvalidUtf8(std::string_view text);

// The code point at `*position` of a valid text; moves `*position` past it.
uint32_t NextCodePoint(std::string_view text, size_t* position);

void AppendCodePoint(uint32_t code_point, std::string* out);

// Turns bytes that arrive piecemeal into valid UTF-8. Each maximal subpart of an ill-formed
// sequence becomes one U+FFFD (the practice the Unicode Standard recommends and the WHATWG decoder
// follows). The output does not depend on where the input is cut.
class Utf8Sanitizer {
 public:
  // Appends to `out` every code point that is complete.
  void Append(std::string_view bytes, std::string* out);
  // An incomplete sequence at the end becomes one U+FFFD. Ready for a new text afterwards.
  void Finish(std::string* out);
  // The incomplete sequence at the end. Appended to a fresh one, it makes the two alike.
  std::string_view pending() const { return {pending_, size_}; }

 private:
  void Begin(uint8_t byte, std::string* out);

  char pending_[4] = {};
  uint8_t size_ = 0;    // bytes in pending_
  uint8_t need_ = 0;    // bytes of the sequence begun
  uint8_t lowest_ = 0;  // what the next byte may be
  uint8_t highest_ = 0;
};

}  // namespace t2r

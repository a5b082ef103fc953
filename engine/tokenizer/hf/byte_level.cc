#include "engine/tokenizer/hf/byte_level.h"

#include <array>
#include <cstdint>

#include "engine/text/utf8.h"

namespace t2r {
namespace {

struct Alphabet {
  std::array<std::string, 256> character_of;
  std::array<int16_t, 0x200> byte_of;  // −1: stands for no byte

  Alphabet() {
    byte_of.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const uint32_t character = printable ? byte : next++;
      AppendCodePoint(character, &character_of[byte]);
      byte_of[character] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string BytesToCharacters(std::string_view bytes) {
  const Alphabet& alphabet = TheAlphabet();
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) text += alphabet.character_of[static_cast<uint8_t>(byte)];
  return text;
}

std::optional<std::string> CharactersToBytes(std::string_view text) {
  const Alphabet& alphabet = TheAlphabet();
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const uint32_t character = NextCodePoint(text, &i);
    const int byte = character < alphabet.byte_of.size() ? alphabet.byte_of[character] : -1;
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace t2r

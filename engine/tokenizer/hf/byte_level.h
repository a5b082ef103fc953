// GPT-2's printable stand-ins for bytes: every byte is one character, so that a vocabulary of
// characters covers all bytes. Printable Latin-1 bytes stand for themselves, the others for U+0100
// onwards in order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace t2r {

std::string BytesToCharacters(std::string_view bytes);

// nullopt if a character of `text` (valid UTF-8) stands for no byte.
std::optional<std::string> CharactersToBytes(std::string_view text);

}  // namespace t2r

// Reads a file's fields one after another and checks each against the file's end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace t2r::convert {

// `name` says what is read, for errors: ConvertError "name at offset N: …". Borrows the bytes.
class GgufCursor {
 public:
  explicit GgufCursor(std::string_view bytes) : bytes_(bytes) {}

  // The next `size` bytes.
  std::string_view Take(uint64_t size, const std::string& name);
  uint32_t Uint32(const std::string& name);
  uint64_t Uint64(const std::string& name);
  // A string: its length in 64 bits, then its bytes.
  std::string_view String(const std::string& name);
  // A count of things that take at least `least_bytes` each.
  uint64_t Count(uint64_t least_bytes, const std::string& name);

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return bytes_.size() - offset_; }

  // Throws ConvertError "name at offset N: problem"; the offset is where the last read began.
  [[noreturn]] void Fail(const std::string& name, const std::string& problem) const;

 private:
  std::string_view bytes_;
  uint64_t offset_ = 0;
  uint64_t begin_ = 0;  // of the last read
};

// The text for an error message: printable ASCII as it is, other bytes as \xNN, at most 64 bytes.
std::string Printable(std::string_view text);

}  // namespace t2r::convert

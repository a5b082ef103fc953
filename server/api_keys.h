// Who may call: keys that are known by their SHA-256 only.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace t2r::server {

// One file of keys. A line is "NAME sha256:" and 64 hexadecimal digits; empty lines and what
// follows a # are left out. A name may have several keys, so that one can be replaced without a
// gap.
class ApiKeys {
 public:
  // INVALID_ARGUMENT naming the line that is none. The line itself is not repeated: somebody may
  // have put a key there.
  // A text without a key is refused too: an editor may have emptied the file to write it.
  static absl::StatusOr<ApiKeys> Parse(const std::string& text);

  // Whose key it is, or null. Takes the same time for every key of the same length.
  const std::string* NameOf(absl::string_view key) const;
  size_t size() const { return entries_.size(); }

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    std::string name;
    Digest digest;
  };
  static Digest Sha256(absl::string_view text);
  std::vector<Entry> entries_;

  friend std::string KeyLine(const std::string& name, absl::string_view key);
};

// Whether it may stand in a file: 1 to 64 letters, digits, and . _ -
bool IsKeyName(absl::string_view name);
// A new key: "t2r_" and 256 random bits.
std::string NewKey();
// What stands for `key` in the file.
std::string KeyLine(const std::string& name, absl::string_view key);

}  // namespace t2r::server

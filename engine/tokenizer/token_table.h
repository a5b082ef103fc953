// What each id adds to a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace t2r {

// Filled at load, then immutable and safe to use from many threads. Two allocations in all.
class TokenTable {
 public:
  // `at_start`: the bytes at the start of a text. A special token's `bytes` are its name. Ids may
  // come in any order; one set twice keeps the last.
  void Set(int32_t id, std::string_view bytes, std::string_view at_start, bool special);

  std::string_view Bytes(int32_t id, bool at_start) const {
    if (!Has(id) || entries_[id].special) return {};
    const Entry& entry = entries_[id];
    const char* const bytes = bytes_.data();
    return at_start ? std::string_view(bytes + entry.start_offset, entry.start_length)
                    : std::string_view(bytes + entry.offset, entry.length);
  }
  // Bytes inside a text, or a special token's name.
  std::string Text(int32_t id) const;
  bool IsSpecial(int32_t id) const { return Has(id) && entries_[id].special; }
  // The largest id set, plus one.
  int size() const { return static_cast<int>(entries_.size()); }

 private:
  struct Entry {
    uint32_t offset = 0, length = 0;
    uint32_t start_offset = 0, start_length = 0;
    bool special = false;
  };
  bool Has(int32_t id) const { return id >= 0 && id < size(); }

  std::vector<Entry> entries_;
  std::string bytes_;
};

}  // namespace t2r

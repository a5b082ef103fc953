#include "engine/tokenizer/token_table.h"

namespace t2r {

void TokenTable::Set(int32_t id, std::string_view bytes, std::string_view at_start, bool special) {
  if (id >= size()) entries_.resize(id + 1);
  Entry& entry = entries_[id];
  entry.special = special;
  entry.offset = entry.start_offset = static_cast<uint32_t>(bytes_.size());
  entry.length = entry.start_length = static_cast<uint32_t>(bytes.size());
  bytes_.append(bytes);
  if (at_start == bytes) return;
  entry.start_offset = static_cast<uint32_t>(bytes_.size());
  entry.start_length = static_cast<uint32_t>(at_start.size());
  bytes_.append(at_start);
}

std::string TokenTable::Text(int32_t id) const {
  return Has(id) ? bytes_.substr(entries_[id].offset, entries_[id].length) : std::string();
}

}  // namespace t2r

// Where a text starts in a sequence of ids: the one rule Decode and IncrementalDecoder share.
#pragma once

#include <cstdint>

#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// Feed the ids in order. The text starts at the first id that has text, provided that the sequence
// begins with the BOS of a tokenizer that adds one; a sequence without it continues another.
class TextStart {
 public:
  // Whether `id` stands at the start of the text (what TokenBytes wants to know).
  bool Next(const Tokenizer& tokenizer, int32_t id) {
    if (!open_) return false;
    if (first_) {
      first_ = false;
      if (tokenizer.adds_bos() && tokenizer.bos_id() != id) {
        open_ = false;
        return false;
      }
    }
    bool has_text = id >= 0 && id < tokenizer.vocab_size() && !tokenizer.IsSpecial(id);
    if (has_text && tokenizer.strips_start()) has_text = !tokenizer.TokenBytes(id, true).empty();
    open_ = !has_text;
    return true;
  }
  // False: every later id is inside the text.
  bool open() const { return open_; }

 private:
  bool open_ = true;
  bool first_ = true;
};

}  // namespace t2r

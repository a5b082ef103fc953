// Where a text starts in a sequence of ids: the one rule Decode and IncrementalDecoder share.
#pragma once

#include <cstdint>

#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// Feed the ids in order. The text starts at the first id that has text, provided that the sequence
// begins with the BOS of a tokenizer that adds one; a sequence without it continues another.
class TextStart {
 public:
  // What it knows of the ids so far, at first of none.
  struct State {
    bool open = true;
    bool first = true;
  };
  TextStart() = default;
  explicit TextStart(const State& state) : state_(state) {}
  const State& state() const { return state_; }

  // Whether `id` stands at the start of the text (what TokenBytes wants to know).
  bool Next(const Tokenizer& tokenizer, int32_t id) {
    if (!state_.open) return false;
    if (state_.first) {
      state_.first = false;
      if (tokenizer.adds_bos() && tokenizer.bos_id() != id) {
        state_.open = false;
        return false;
      }
    }
    bool has_text = id >= 0 && id < tokenizer.vocab_size() && !tokenizer.IsSpecial(id);
    if (has_text && tokenizer.strips_start()) has_text = !tokenizer.TokenBytes(id, true).empty();
    state_.open = !has_text;
    return true;
  }
  // False: every later id is inside the text.
  bool open() const { return state_.open; }

 private:
  State state_;
};

}  // namespace t2r

// Streams the text of a growing sequence in whole code points, and finds stop strings in it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/text/stop_matcher.h"
#include "engine/text/utf8.h"
#include "engine/tokenizer/text_start.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// Appending the generated ids one by one yields pieces whose concatenation is
// Decode(prompt + generated) minus Decode(prompt)'s text (a code point that the prompt left open
// counts as generated). Construction costs the same for any length of the prompt.
class IncrementalDecoder {
 public:
  // Where a decoder stands in a sequence; at first before all of it.
  struct State {
    TextStart::State start;
    std::string code_point;  // the bytes of an incomplete one
  };
  // The tokenizer must outlive the decoder. from: what came before the prompt, of the same
  // sequence.
  IncrementalDecoder(const Tokenizer& tokenizer, std::span<const int32_t> prompt)
      : IncrementalDecoder(tokenizer, prompt, State()) {}
  IncrementalDecoder(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                     const State& from);
  State state() const { return {start_.state(), std::string(utf8_.pending())}; }

  // Appends to `text` the whole code points that become final with this token, if any.
  void Append(int32_t id, std::string* text) {
    utf8_.Append(tokenizer_.TokenBytes(id, start_.Next(tokenizer_, id)), text);
  }
  // What is left at the end: an incomplete code point becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  TextStart start_;
  Utf8Sanitizer utf8_;
};

}  // namespace t2r

// Streams the text of a growing sequence in whole code points, and finds stop strings in it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// Appending the generated ids one by one yields pieces whose concatenation is
// Decode(prompt + generated) minus Decode(prompt)'s text (a code point that the prompt left open
// counts as generated).
class IncrementalDecoder {
 public:
  IncrementalDecoder(const Tokenizer& tokenizer, std::span<const int32_t> prompt);

  // The whole code points that become final with this token; may be empty.
  std::string Append(int32_t id);
  // What is left at the end: an incomplete code point becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  bool at_start_ = true;
  std::string pending_;  // an incomplete UTF-8 sequence, < 4 bytes
};

// Holds back text that may be the beginning of a stop string, so no part of one ever leaks.
class StopMatcher {
 public:
  // Empty strings are ignored. include: the matched stop string is part of the text.
  StopMatcher(std::vector<std::string> stops, bool include);

  struct Result {
    std::string text;      // safe to send now
    bool stopped = false;  // a stop string was completed: `text` ends before (or after) it
    int stop_index = -1;   // which, in the order given; the earliest match in the text wins
  };
  Result Append(const std::string& text);
  // The held-back text, when generation ends otherwise.
  std::string Finish();

 private:
  std::vector<std::string> stops_;
  bool include_;
  std::string held_;
};

}  // namespace t2r

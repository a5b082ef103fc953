#include "engine/tokenizer/incremental_decoder.h"

namespace t2r {

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                                       const State& from)
    : tokenizer_(tokenizer), start_(from.start) {
  size_t first_inside = 0;  // ids from here on are certainly inside the text
  std::string tail = from.code_point;
  for (; first_inside < prompt.size() && start_.open(); ++first_inside) {
    const int32_t id = prompt[first_inside];
    tail += tokenizer_.TokenBytes(id, start_.Next(tokenizer_, id));
  }
  // Only an incomplete sequence at the end matters, and a lead byte begins it whatever came before:
  // the last three bytes say all.
  constexpr size_t kBytes = 3;
  std::string back;
  for (size_t i = prompt.size(); i > first_inside && back.size() < kBytes; --i) {
    back.insert(0, tokenizer_.TokenBytes(prompt[i - 1], false));
  }
  tail += back;
  std::string ignored;
  utf8_.Append(tail, &ignored);
}

std::string IncrementalDecoder::Finish() {
  std::string text;
  utf8_.Finish(&text);
  return text;
}

}  // namespace t2r

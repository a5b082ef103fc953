// Any bytes as token ids of a byte tokenizer, cut into a prompt and what follows: what is streamed
// is valid UTF-8 and, without a prompt, what decoding at once gives.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/text/utf8.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"
#include "testing/small_sentencepiece.h"

// The first byte is the prompt's length; each other is an id, of bytes (3 to 258) or pieces.
std::vector<std::string> FuzzSeeds() {
  return {std::string("\0\x01\x46\x47\x48", 5), std::string("\x02\xC3\xA9\xE2\x96\x81", 6),
          std::string("\x01\xF0\x9F\x99\x82", 5)};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const t2r::Tokenizer* const tokenizer = [] {
    auto made = t2r::SentencePieceTokenizer::Parse(t2r::testing::SmallModel({}), {});
    if (!made.ok()) std::abort();
    return made->release();
  }();
  if (size == 0) return 0;
  std::vector<int32_t> ids;
  // Every third id is beyond the bytes' tokens: a word or a control piece.
  for (size_t i = 1; i < size; ++i) ids.push_back(i % 3 == 0 ? 256 + data[i] % 40 : 3 + data[i]);
  const size_t prompt = data[0] % (ids.size() + 1);
  t2r::IncrementalDecoder decoder(*tokenizer, std::span(ids).first(prompt));
  std::string text;
  for (size_t i = prompt; i < ids.size(); ++i) {
    decoder.Append(ids[i], &text);
    if (t2r::FindInvalidUtf8(text) != std::string::npos) std::abort();
  }
  text += decoder.Finish();
  if (prompt == 0 && text != tokenizer->Decode(ids)) std::abort();
  return 0;
}

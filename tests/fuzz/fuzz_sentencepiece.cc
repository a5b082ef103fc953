// Any bytes as tokenizer.model.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"
#include "testing/small_sentencepiece.h"

std::vector<std::string> FuzzSeeds() {
  using t2r::testing::SmallModel;
  std::string map(4 + 1024, '\0');
  map[1] = 4;
  map += std::string("x\0", 2);
  return {SmallModel({.byte_fallback = false}),
          SmallModel({.unigram = true, .byte_fallback = false}),
          SmallModel({.byte_fallback = false, .charsmap = map}), SmallModel({})};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string model(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = t2r::SentencePieceTokenizer::Parse(model, {});
  if (!tokenizer.ok()) {
    if (tokenizer.status().message().empty()) std::abort();
    return 0;
  }
  const auto ids = (*tokenizer)->Encode("once upon caf\xC3\xA9  a\n", true);
  if (ids.ok()) (*tokenizer)->Decode(*ids);
  return 0;
}

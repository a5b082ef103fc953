// Any text through tokenizers of each kind: what is encoded is in the vocabulary, and a byte-level
// tokenizer gives the text back. Decoding in steps is decoding at once.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"
#include "testing/small_sentencepiece.h"

namespace {

using t2r::Tokenizer;
using Tokenizers = std::vector<std::unique_ptr<Tokenizer>>;

template <typename Result>
std::unique_ptr<Tokenizer> Must(Result result) {
  if (!result.ok()) std::abort();
  return *std::move(result);
}

// The byte-level alphabet, byte by byte in the order of HF's table.
std::string ByteLevelVocabulary() {
  std::string vocabulary;
  int id = 0;
  const auto add = [&](int code_point) {
    char text[16];
    std::snprintf(text, sizeof(text), "\"\\u%04X\": %d", static_cast<unsigned>(code_point), id++);
    vocabulary += (vocabulary.empty() ? "" : ", ") + std::string(text);
  };
  for (int c = 0x21; c <= 0x7E; ++c) add(c);
  for (int c = 0xA1; c <= 0xFF; ++c) {
    if (c != 0xAD) add(c);
  }
  for (int c = 0x100; c < 0x100 + 68; ++c) add(c);
  return vocabulary;
}

const Tokenizers& All() {
  static const auto* const all = [] {
    auto* made = new Tokenizers;
    const std::string model = R"("model": {"type": "BPE", "vocab": {)" + ByteLevelVocabulary() +
                              R"(, "th": 300, "the": 301}, "merges": ["t h", "th e"]},
        "decoder": {"type": "ByteLevel"})";
    made->push_back(Must(t2r::ParseTokenizerJson(
        "{" + model + R"(, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}})",
        {})));
    made->push_back(Must(t2r::ParseTokenizerJson(
        "{" + model + R"(, "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence",
          "pretokenizers": [{"type": "Split", "behavior": "Isolated", "pattern": {"Regex":
          "(?i:'s)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s+(?!\\S)|\\s+"}},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})",
        {})));
    t2r::TokenizerConfig config;
    config.tokens = {{.content = "<x>", .special = true},
                     {.content = " word", .single_word = true}};
    made->push_back(Must(t2r::SentencePieceTokenizer::Parse(t2r::testing::SmallModel({}), config)));
    config.legacy = false;
    made->push_back(Must(t2r::SentencePieceTokenizer::Parse(t2r::testing::SmallModel({}), config)));
    return made;
  }();
  return *all;
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  return {"once upon the <x> a word caf\xC3\xA9\n", "  it's 12345 \xF0\x9F\x99\x82\r\n",
          "e\xCC\x81 \xE2\x96\x81the", "\xFF"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (size_t i = 0; i < All().size(); ++i) {
    const Tokenizer& tokenizer = *All()[i];
    const auto ids = tokenizer.Encode(text, true);
    if (!ids.ok()) {
      if (ids.status().message().empty()) std::abort();
      continue;
    }
    for (const int32_t id : *ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    const std::string decoded = tokenizer.Decode(*ids);
    if (i == 0 && decoded != text) std::abort();
    t2r::IncrementalDecoder decoder(tokenizer, {});
    std::string streamed;
    for (const int32_t id : *ids) decoder.Append(id, &streamed);
    if (streamed + decoder.Finish() != decoded) std::abort();
  }
  return 0;
}

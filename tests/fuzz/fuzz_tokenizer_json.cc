// Any bytes as tokenizer.json: a clean error, or a tokenizer that encodes and decodes.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/tokenizer/hf/hf_tokenizer.h"

namespace {

// A tokenizer.json with a small BPE model; both arguments are further members.
std::string File(const std::string& model_members, const std::string& members) {
  return R"json({"model": {"type": "BPE",
      "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<0x20>": 4}, )json" +
         model_members + R"json(},
      "added_tokens": [{"id": 5, "content": "<s>", "special": true, "lstrip": true,
        "rstrip": false, "single_word": true, "normalized": false}], )json" +
         members + "}";
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  return {File(R"json("merges": ["a b"], "unk_token": "<unk>", "byte_fallback": true,
                  "fuse_unk": true)json",
               R"json("normalizer": {"type": "Sequence", "normalizers": [
                    {"type": "Prepend", "prepend": "_"}, {"type": "NFC"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
                  "decoder": {"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
                    {"type": "ByteFallback"}, {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})json"),
          File(R"json("merges": [["a", "b"]], "ignore_merges": true)json",
               R"json("pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "behavior": "Isolated", "invert": false, "pattern":
                      {"Regex": "(?i:'s)|[^\\s\\p{L}]?\\p{L}+|\\s+(?!\\S)"}},
                    {"type": "ByteLevel", "use_regex": false}]},
                  "decoder": {"type": "ByteLevel"},
                  "post_processor": {"type": "TemplateProcessing", "single": [
                      {"SpecialToken": {"id": "<s>", "type_id": 0}},
                      {"Sequence": {"id": "A", "type_id": 0}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}})json"),
          File(R"json("merges": [])json",
               R"json("pre_tokenizer": {"type": "Metaspace", "replacement": "_",
                    "prepend_scheme": "first", "split": true},
                  "decoder": {"type": "Metaspace", "replacement": "_"})json")};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = t2r::ParseTokenizerJson(text, {});
  if (!tokenizer.ok()) {
    if (tokenizer.status().message().empty()) std::abort();
    return 0;
  }
  const auto ids = (*tokenizer)->Encode("ab <s>it's caf\xC3\xA9 ", true);
  if (ids.ok()) (*tokenizer)->Decode(*ids);
  return 0;
}

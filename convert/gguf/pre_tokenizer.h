// The pre-tokenizers that GGUF names, as tokenizer.json describes them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace t2r::convert {

struct GgufPreTokenizer {
  nlohmann::ordered_json normalizer;  // null: none
  nlohmann::ordered_json pre_tokenizer;
  bool ignore_merges = false;  // a word that is a token is that token
  bool adds_bos = false;       // where the file does not say
};

// For the value of tokenizer.ggml.pre. Throws ConvertError naming it and those that are supported.
GgufPreTokenizer FindGgufPreTokenizer(const std::string& name);

// "smollm, llama-bpe, …".
std::string GgufPreTokenizerNames();

}  // namespace t2r::convert

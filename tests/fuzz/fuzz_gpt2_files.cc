// Any bytes as vocab.json and merges.txt, separated by a zero byte.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/tokenizer/hf/hf_tokenizer.h"

std::vector<std::string> FuzzSeeds() {
  const std::string vocab = R"({"a": 0, "b": 1, "ab": 2, "\u0120": 3, "<|endoftext|>": 4})";
  return {vocab + '\0' + "#version: 0.2\na b\n", vocab + '\0' + "a b\r\n\u0120 a\n", "{}\0"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string merges = zero == std::string::npos ? "" : input.substr(zero + 1);
  const auto tokenizer = t2r::ParseGpt2Files(input.substr(0, zero), merges, {});
  if (!tokenizer.ok()) {
    if (tokenizer.status().message().empty()) std::abort();
    return 0;
  }
  const auto ids = (*tokenizer)->Encode("ab ab<|endoftext|>\n", true);
  if (ids.ok()) (*tokenizer)->Decode(*ids);
  return 0;
}

// From the vocabulary of a GGUF file to the tokenizer files of an HF directory.
#pragma once

#include <string>

#include "convert/gguf/gguf_file.h"

namespace t2r::convert {

struct TokenizerPlan {
  std::string kind;  // "gpt2, smollm", "llama" or "none"; for people
  // Empty where the file has no vocabulary.
  std::string tokenizer_json;
  std::string tokenizer_config_json;
};

// tokenizer.ggml.model gpt2 (byte-level BPE, cut as tokenizer.ggml.pre says) and llama
// (SentencePiece's BPE with byte fallback, its merges found from the scores). `pre_tokenizer`,
// where not empty, replaces tokenizer.ggml.pre. `vocabulary` is how many rows the embedding has:
// there may be fewer tokens but not more. Throws ConvertError naming the key.
TokenizerPlan PlanTokenizer(const GgufFile& file, const std::string& pre_tokenizer,
                            int64_t vocabulary);

}  // namespace t2r::convert

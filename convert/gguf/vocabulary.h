// The tokens of a GGUF file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/gguf/gguf_file.h"

namespace t2r::convert {

// The numbers of tokenizer.ggml.token_type, which are SentencePiece's.
enum class GgufTokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Borrows the file's bytes.
class GgufVocabulary {
 public:
  // Reads and checks the tokens and their types: valid UTF-8, none empty or twice, not more than
  // `limit`. Throws ConvertError naming the key and the index.
  GgufVocabulary(const GgufFile& file, int64_t limit);

  size_t size() const { return tokens_.size(); }
  std::string_view token(size_t id) const { return tokens_[id]; }
  GgufTokenType type(size_t id) const { return types_[id]; }
  // A row without a token: "[PAD151669]", as converters fill up a vocabulary.
  bool IsPadding(size_t id) const;
  std::optional<int32_t> Find(std::string_view token) const;

 private:
  std::vector<std::string_view> tokens_;
  std::vector<GgufTokenType> types_;
  std::unordered_map<std::string_view, int32_t> ids_;
};

using GgufMerge = std::pair<std::string_view, std::string_view>;

// tokenizer.ggml.merges, the first first. Throws ConvertError where one is not two tokens of the
// vocabulary with a space between them that make a third.
std::vector<GgufMerge> ReadGgufMerges(const GgufFile& file, const GgufVocabulary& vocabulary);

// The merges that segment as SentencePiece does with tokenizer.ggml.scores: of every normal token
// each cut into two normal tokens, ordered by the token's score, the highest first. Cuts of one
// token are ordered by the length of the left part, the longest first, as HF's conversion of
// SentencePiece models has them.
std::vector<GgufMerge> MergesFromScores(const GgufFile& file, const GgufVocabulary& vocabulary);

}  // namespace t2r::convert

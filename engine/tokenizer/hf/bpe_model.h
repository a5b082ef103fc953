// Byte-pair encoding of one word: symbols are merged in the order of the merge list.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace t2r {

// The largest vocabulary accepted; ids are below it.
inline constexpr int32_t kMaxTokenIds = 1 << 22;

// Immutable; safe to use from many threads.
class BpeModel {
 public:
  struct Options {
    std::optional<std::string> unknown;  // the token for characters outside the vocabulary
    bool byte_fallback = false;          // such characters become <0xNN> tokens if all are known
    bool fuse_unknown = false;           // neighbouring unknown characters give one unknown token
    bool ignore_merges = false;          // a word that is a token is that token
  };
  using Vocabulary = absl::flat_hash_map<std::string, int32_t>;

  // An empty model; see Create.
  BpeModel() = default;

  // merges: pairs of tokens, the first merged first. `file` names the source in errors
  // (INVALID_ARGUMENT): a merge of tokens outside the vocabulary, an id out of range or used twice,
  // an unknown token outside the vocabulary.
  static absl::StatusOr<BpeModel> Create(
      Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
      Options options, const std::string& file);

  // Appends the ids of `word` (valid UTF-8): O(n log n) for n characters. Characters that are
  // neither in the vocabulary nor covered by the fallbacks are dropped, as HF does.
  void Encode(std::string_view word, std::vector<int32_t>* ids) const;

  std::optional<int32_t> Find(std::string_view token) const;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    int32_t rank;
    int32_t id;  // of the merged symbol
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  const Merge* FindMerge(int32_t left, int32_t right) const;
  // The symbols before any merge.
  void SplitSymbols(std::string_view word, std::vector<int32_t>* symbols) const;

  Vocabulary vocabulary_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
  std::vector<int32_t> low_characters_;  // ids of the characters below U+0200; −1: none
  std::vector<int32_t> byte_tokens_;     // of <0x00> to <0xFF>; −1: none
  std::optional<int32_t> unknown_;
  Options options_;
};

}  // namespace t2r

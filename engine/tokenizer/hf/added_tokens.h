// Tokens that are found in the text itself, before the model sees it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/text/regex.h"

namespace t2r {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // contributes no text when decoded
  bool single_word = false;  // only where no word character is beside it
  bool lstrip = false;       // takes the white space to its left with it
  bool rstrip = false;       // and to its right
  bool normalized = true;    // looked for in the normalised text, as normalised itself
};

// Gives the tokens from index `numbered` on the ids that HF's tokenizers gives them, in their
// order: the model's (`find`) if it has the content, else the next free one after its `model_size`
// entries and all before. Those whose content an earlier one has, and empty ones, are dropped.
void NumberAddedTokens(const std::function<std::optional<int32_t>(const std::string&)>& find,
                       int32_t model_size, std::vector<AddedToken>* tokens, size_t numbered);

// Finds added tokens: from left to right, the longest where several begin, as HF does; special ones
// too, so "</s>" in a user's text is the token. Immutable; safe to use from many threads.
class AddedTokenFinder {
 public:
  // The longest content accepted, in bytes (it bounds the work at each position).
  static constexpr size_t kMaxContentBytes = 4096;

  AddedTokenFinder();
  // `pattern` is what to look for (the content, normalised or not); an empty one is ignored.
  void Add(const AddedToken& token, const std::string& pattern);

  struct Part {
    Match range;
    int32_t id;  // −1: text between tokens
  };
  // Covers `text` (valid UTF-8) in order; no part of text is empty.
  std::vector<Part> Split(std::string_view text) const;

 private:
  // The longest token that begins at `position`: its index and end, or −1.
  int32_t LongestAt(std::string_view text, size_t position, size_t* end) const;

  std::vector<AddedToken> tokens_;
  // A trie over bytes: (node, byte) to node; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> token_at_;  // by node; −1: none
  std::array<bool, 256> begins_{};
};

}  // namespace t2r

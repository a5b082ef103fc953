// Text to token ids and back.
//
// Decoding is defined as the concatenation of the tokens' bytes, made valid UTF-8 (each maximal
// invalid part becomes U+FFFD), special tokens contributing nothing. So decoding token by token
// (IncrementalDecoder) and all at once give the same text.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

// Immutable after loading; safe to use from many threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // With BOS (and whatever else the model's tokenizer adds around a single text) when
  // add_special_tokens. The text must be valid UTF-8: INVALID_ARGUMENT with the byte offset if not.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                                      bool add_special_tokens) const = 0;
  // Encoder-decoders: Encode is for sources, this for targets, whose vocabulary may be another;
  // add_special_tokens closes the text with EOS. Otherwise the same as Encode.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeTarget(const std::string& text,
                                                            bool add_special_tokens) const {
    return Encode(text, add_special_tokens);
  }
  // The bytes a token (of the target) adds to a text; empty for special tokens and ids outside the
  // vocabulary. They may be part of a code point, and lie in the tokenizer. `at_start`: nothing but
  // special tokens comes before it (SentencePiece drops the space it put before the first word).
  virtual std::string_view TokenBytes(int32_t id, bool at_start) const = 0;
  // A token as a text that names it: its bytes, or a special token's name, such as "<s>".
  virtual std::string TokenText(int32_t id) const { return std::string(TokenBytes(id, false)); }
  // Special (control) tokens contribute no text.
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual int vocab_size() const = 0;
  virtual int source_vocab_size() const { return vocab_size(); }
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  // Whether Encode puts a BOS first.
  virtual bool adds_bos() const = 0;
  // Whether a text never begins with spaces: tokens that are nothing else do not start it.
  virtual bool strips_start() const { return false; }

  // All ids as one text. "Start" (see TokenBytes) means: after a leading BOS, or, for tokenizers
  // that add none, the first id. So Decode(Encode(x)) is x and Decode of a continuation keeps its
  // space.
  std::string Decode(std::span<const int32_t> ids) const;
};

// source.spm + target.spm + vocab.json (Marian), which go before all others; tokenizer.json,
// tokenizer.model, or vocab.json + merges.txt, in this order of preference where
// several exist (a tokenizer.json of a kind we do not support falls to the next, with the reason in
// the error when nothing is left). nullptr when the directory has none. Errors name file and field.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory);

}  // namespace t2r

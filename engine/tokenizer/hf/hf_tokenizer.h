// Byte-pair tokenizers with the pipeline of HF's tokenizers: added tokens, normaliser,
// pre-tokenizer, model, post-processor, decoder.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/hf/added_tokens.h"
#include "engine/tokenizer/hf/bpe_model.h"
#include "engine/tokenizer/hf/normalizer.h"
#include "engine/tokenizer/hf/pre_tokenizer.h"
#include "engine/tokenizer/token_table.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r {

class HfTokenizer : public Tokenizer {
 public:
  struct Parts {
    AddedTokenFinder added;             // looked for in the text as it is
    Normalizer normalizer;              // of what lies between those
    AddedTokenFinder normalized_added;  // looked for in the normalised text
    PreTokenizer pre_tokenizer;
    BpeModel model;
    std::vector<int32_t> prefix, suffix;  // put around a text
    TokenTable table;
    std::optional<int32_t> bos, eos;
  };
  explicit HfTokenizer(Parts parts) : parts_(std::move(parts)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) const override;
  std::string_view TokenBytes(int32_t id, bool at_start) const override {
    return parts_.table.Bytes(id, at_start);
  }
  std::string TokenText(int32_t id) const override { return parts_.table.Text(id); }
  bool IsSpecial(int32_t id) const override { return parts_.table.IsSpecial(id); }
  int vocab_size() const override { return parts_.table.size(); }
  std::optional<int32_t> bos_id() const override { return parts_.bos; }
  std::optional<int32_t> eos_id() const override { return parts_.eos; }
  bool adds_bos() const override {
    return parts_.bos.has_value() && !parts_.prefix.empty() && parts_.prefix[0] == *parts_.bos;
  }

 private:
  // A stretch of text between added tokens.
  absl::Status EncodeStretch(std::string text, bool at_begin, std::vector<int32_t>* ids) const;

  Parts parts_;
};

// tokenizer_config.json, special_tokens_map.json and added_tokens.json, as far as they matter; any
// may be absent (nullopt).
struct TokenizerConfig {
  std::string tokenizer_class;
  std::optional<bool> add_bos_token, add_eos_token, add_prefix_space, legacy;
  std::optional<std::string> bos_token, eos_token, unk_token, pad_token;
  std::optional<bool> separate_vocabs;  // Marian
  // added_tokens_decoder, or else added_tokens.json, in the order of the ids there; then all
  // special tokens that have a name (bos_token, …, additional_special_tokens,
  // extra_special_tokens). Their ids are not set: NumberAddedTokens.
  std::vector<AddedToken> tokens;

  // As transformers: with an added_tokens_decoder the two other files do not count, without one
  // special_tokens_map.json goes before tokenizer_config.json.
  static absl::StatusOr<TokenizerConfig> Parse(
      const std::optional<std::string>& tokenizer_config_json,
      const std::optional<std::string>& special_tokens_map_json,
      const std::optional<std::string>& added_tokens_json = std::nullopt);
  // Of the classes that put BOS and EOS around a text as add_bos_token (default true) and
  // add_eos_token (default false) say, whatever tokenizer.json's post-processor holds.
  bool IsLlamaClass() const;
  // Whether the files call `token` special, whatever else they say of it.
  bool IsNamed(const std::string& token) const;

  std::vector<std::string> named;  // contents of the special tokens that have a name
};

// From the text of tokenizer.json. UNIMPLEMENTED for what is not supported, by name.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(const std::string& tokenizer_json,
                                                              const TokenizerConfig& config);

// GPT-2's pair of files.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseGpt2Files(const std::string& vocab_json,
                                                          const std::string& merges_txt,
                                                          const TokenizerConfig& config);

// INVALID_ARGUMENT with the offset of the first byte that is not valid UTF-8.
absl::Status CheckUtf8(const std::string& text);

}  // namespace t2r

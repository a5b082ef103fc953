// SentencePiece models (tokenizer.model).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_library.h"
#include "engine/tokenizer/token_table.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// libsentencepiece's segmentation, of what lies between the tokens that the configuration names;
// BOS and EOS around a text as HF's Llama tokenizer adds them: BOS unless add_bos_token is false,
// EOS if add_eos_token is true. Names of control pieces in a text, such as "<s>", are plain text
// unless the configuration has them too.
class SentencePieceTokenizer : public Tokenizer {
 public:
  // From the bytes of tokenizer.model. UNIMPLEMENTED for a tokenizer_class that is not Llama's and
  // does not say add_bos_token.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(const std::string& model,
                                                          const TokenizerConfig& config);

  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) const override;
  std::string_view TokenBytes(int32_t id, bool at_start) const override {
    return table_.Bytes(id, at_start);
  }
  std::string TokenText(int32_t id) const override { return table_.Text(id); }
  bool IsSpecial(int32_t id) const override { return table_.IsSpecial(id); }
  int vocab_size() const override { return table_.size(); }
  std::optional<int32_t> bos_id() const override { return bos_; }
  std::optional<int32_t> eos_id() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }

 private:
  // Which stretches of text get the space that the model puts in front.
  enum class Prefix : uint8_t {
    kNone,   // add_prefix_space is false, or the model does not
    kEvery,  // legacy: each, also those after an added token
    kFirst,  // only the first of a text, unless it has one
  };

  SentencePieceTokenizer() = default;

  Prefix prefix_ = Prefix::kEvery;
  AddedTokenFinder added_;
  std::unique_ptr<SentencePieceProcessor> processor_;  // as the model says
  std::unique_ptr<SentencePieceProcessor> bare_;       // puts no space in front; null with kEvery
  TokenTable table_;
  std::optional<int32_t> bos_, eos_;
  bool adds_bos_ = false;
  bool adds_eos_ = false;
};

}  // namespace t2r

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

// libsentencepiece's segmentation; BOS and EOS around a text as HF's Llama tokenizer adds them: BOS
// unless add_bos_token is false, EOS if add_eos_token is true. Names of control pieces in a text,
// such as "<s>", are plain text.
class SentencePieceTokenizer : public Tokenizer {
 public:
  // The bytes of tokenizer.model and the text of added_tokens.json, if any. UNIMPLEMENTED where the
  // latter adds tokens that the model does not have, or for a tokenizer_class that is not Llama's
  // and does not say add_bos_token.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(
      const std::string& model, const std::optional<std::string>& added_tokens_json,
      const TokenizerConfig& config);

  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) const override;
  std::string TokenBytes(int32_t id, bool at_start) const override {
    return table_.Bytes(id, at_start);
  }
  bool IsSpecial(int32_t id) const override { return table_.IsSpecial(id); }
  int vocab_size() const override { return table_.size(); }
  std::optional<int32_t> bos_id() const override { return bos_; }
  std::optional<int32_t> eos_id() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }

 private:
  SentencePieceTokenizer() = default;

  std::unique_ptr<SentencePieceProcessor> processor_;
  TokenTable table_;
  std::optional<int32_t> bos_, eos_;
  bool adds_bos_ = false;
  bool adds_eos_ = false;
};

}  // namespace t2r

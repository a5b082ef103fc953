// Marian's pair of SentencePiece models with their vocabularies (opus-mt and relatives).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_library.h"
#include "engine/tokenizer/token_table.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// The contents of a directory's files.
struct MarianFiles {
  std::string source_spm, target_spm;
  std::string vocab_json;                        // piece to id, of both sides or of the source
  std::optional<std::string> target_vocab_json;  // of the target, where it has its own
  std::optional<std::string> config_json;        // for source_append_eos (default true)
};

// source.spm cuts sources into pieces and target.spm targets; the vocabulary files give their ids,
// and <unk> where they have none. A source that begins with ">>code<<" keeps that as one piece:
// it is how multilingual models are told the language to write. Names of special tokens inside a
// text ("</s>") are plain text. Decoding is the target's; special tokens, <unk> among them, add
// nothing, and a text does not begin with spaces.
class MarianTokenizer : public Tokenizer {
 public:
  // INVALID_ARGUMENT or UNIMPLEMENTED, naming file and field.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(const MarianFiles& files,
                                                          const TokenizerConfig& config);

  // EOS last where the model was trained so (source_append_eos).
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeTarget(const std::string& text,
                                                    bool add_special_tokens) const override;
  std::string_view TokenBytes(int32_t id, bool at_start) const override {
    return table_.Bytes(id, at_start);
  }
  bool IsSpecial(int32_t id) const override { return table_.IsSpecial(id); }
  int vocab_size() const override { return table_.size(); }
  int source_vocab_size() const override { return source_.size; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return target_.eos; }
  bool adds_bos() const override { return false; }
  bool strips_start() const override { return true; }

 private:
  struct Side {
    std::unique_ptr<SentencePieceProcessor> processor;
    absl::flat_hash_map<std::string, int32_t> ids;
    int32_t unk = 0;
    int32_t eos = 0;
    int size = 0;  // the largest id, plus one
  };

  MarianTokenizer() = default;
  static absl::StatusOr<Side> ParseVocabulary(const std::string& json, const std::string& file,
                                              const TokenizerConfig& config);
  static absl::Status AppendIds(const Side& side, std::string_view text, std::vector<int32_t>* ids);

  Side source_, target_;
  bool source_append_eos_ = true;
  TokenTable table_;  // of the target
};

}  // namespace t2r

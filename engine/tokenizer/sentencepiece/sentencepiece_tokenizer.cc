#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_model.h"

namespace t2r {
namespace {

using Type = SentencePieceModel::Type;

TokenTable MakeTable(const SentencePieceModel& model, bool drop_first_space) {
  TokenTable table;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    const auto id = static_cast<int32_t>(i);
    if (piece.type == Type::kControl) {
      table.Set(id, piece.text, piece.text, true);
    } else if (piece.type == Type::kUnknown) {
      table.Set(id, model.unknown_surface, model.unknown_surface, false);
    } else {
      const std::string bytes = piece.Bytes();
      std::string_view start = bytes;
      // A byte piece may be a space too, but not one that SentencePiece put there.
      if (drop_first_space && piece.type != Type::kByte && start.starts_with(' ')) {
        start.remove_prefix(1);
      }
      table.Set(id, bytes, start, false);
    }
  }
  return table;
}

std::optional<int32_t> FindPiece(const SentencePieceModel& model, const std::string& text) {
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.pieces[id].text == text) return static_cast<int32_t>(id);
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Parse(
    const std::string& model_bytes, const TokenizerConfig& config) {
  if (!config.tokenizer_class.empty() && !config.IsLlamaClass() && !config.add_bos_token) {
    return UnsupportedAt("tokenizer_config.json: tokenizer_class",
                         absl::StrCat("\"", config.tokenizer_class,
                                      "\" with tokenizer.model and without add_bos_token"));
  }
  T2R_ASSIGN_OR_RETURN(const SentencePieceModel model, SentencePieceModel::Parse(model_bytes));
  std::unique_ptr<SentencePieceTokenizer> result(new SentencePieceTokenizer());
  T2R_ASSIGN_OR_RETURN(result->processor_, SentencePieceProcessor::Load(model_bytes));
  if (result->processor_->size() != static_cast<int>(model.pieces.size())) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.model: libsentencepiece reads ",
                                                   result->processor_->size(), " pieces, not ",
                                                   model.pieces.size()));
  }
  const bool prefix = config.add_prefix_space.value_or(true) && model.add_dummy_prefix;
  result->prefix_ = !prefix                        ? Prefix::kNone
                    : config.legacy.value_or(true) ? Prefix::kEvery
                                                   : Prefix::kFirst;
  if (model.add_dummy_prefix && result->prefix_ != Prefix::kEvery) {
    // Fields of a message that comes twice are merged: normalizer_spec.add_dummy_prefix = false.
    T2R_ASSIGN_OR_RETURN(result->bare_, SentencePieceProcessor::Load(
                                            model_bytes + std::string("\x1A\x02\x18\x00", 4)));
  }
  result->table_ = MakeTable(model, prefix || model.remove_extra_whitespaces);
  result->bos_ = model.FindControl(model.bos_piece);
  result->eos_ = model.FindControl(model.eos_piece);
  std::vector<AddedToken> added = config.tokens;
  NumberAddedTokens([&](const std::string& token) { return FindPiece(model, token); },
                    static_cast<int32_t>(model.pieces.size()), &added, 0);
  for (const AddedToken& token : added) {
    const bool special = token.special || result->table_.IsSpecial(token.id);
    result->table_.Set(token.id, token.content, token.content, special);
    result->added_.Add(token, token.content);
    if (token.content == config.bos_token) result->bos_ = token.id;
    if (token.content == config.eos_token) result->eos_ = token.id;
  }
  result->adds_bos_ = config.add_bos_token.value_or(result->bos_.has_value());
  result->adds_eos_ = config.add_eos_token.value_or(false);
  if ((result->adds_bos_ && !result->bos_) || (result->adds_eos_ && !result->eos_)) {
    const bool bos = result->adds_bos_ && !result->bos_;
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer_config.json: ", bos ? "add_bos_token" : "add_eos_token",
        " is true, but tokenizer.model has no ", bos ? model.bos_piece : model.eos_piece));
  }
  return std::unique_ptr<Tokenizer>(std::move(result));
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::Encode(const std::string& text,
                                                                    bool add_special_tokens) const {
  T2R_RETURN_IF_ERROR(CheckUtf8(text));
  std::vector<int32_t> ids;
  if (add_special_tokens && adds_bos_) ids.push_back(*bos_);
  for (const auto& part : added_.Split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const std::string_view stretch =
        std::string_view(text).substr(part.range.begin, part.range.end - part.range.begin);
    const bool first =
        part.range.begin == 0 && !stretch.starts_with(' ') && !stretch.starts_with("\xE2\x96\x81");
    const bool bare = bare_ != nullptr && !(prefix_ == Prefix::kFirst && first);
    T2R_ASSIGN_OR_RETURN(const std::vector<int32_t> pieces,
                         (bare ? bare_ : processor_)->Encode(stretch));
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }
  if (add_special_tokens && adds_eos_) ids.push_back(*eos_);
  return ids;
}

}  // namespace t2r

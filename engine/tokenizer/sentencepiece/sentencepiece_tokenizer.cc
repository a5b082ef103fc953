#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_model.h"

namespace t2r {
namespace {

using Type = SentencePieceModel::Type;

TokenTable MakeTable(const SentencePieceModel& model) {
  const bool drop_first_space = model.add_dummy_prefix || model.remove_extra_whitespaces;
  TokenTable table;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    const auto id = static_cast<int32_t>(i);
    if (piece.type == Type::kControl) {
      table.Set(id, "", "", true);
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

// Tokens that the model lacks would be cut into pieces silently.
absl::Status CheckAddedTokens(const std::string& json_text, const SentencePieceModel& model) {
  const std::string file = "added_tokens.json";
  T2R_ASSIGN_OR_RETURN(const auto json, ParseJsonObject(json_text, file));
  for (const auto& [token, id] : json.items()) {
    const bool known = id.is_number_integer() && id >= 0 && id < model.pieces.size() &&
                       model.pieces[id.get<size_t>()].text == token;
    if (!known) {
      return UnsupportedAt(
          file, absl::StrCat("\"", token,
                             "\", which tokenizer.model does not have (add a tokenizer.json)"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Parse(
    const std::string& model_bytes, const std::optional<std::string>& added_tokens_json,
    const TokenizerConfig& config) {
  if (!config.tokenizer_class.empty() && !config.IsLlamaClass() && !config.add_bos_token) {
    return UnsupportedAt("tokenizer_config.json: tokenizer_class",
                         absl::StrCat("\"", config.tokenizer_class,
                                      "\" with tokenizer.model and without add_bos_token"));
  }
  T2R_ASSIGN_OR_RETURN(const SentencePieceModel model, SentencePieceModel::Parse(model_bytes));
  if (added_tokens_json.has_value()) {
    T2R_RETURN_IF_ERROR(CheckAddedTokens(*added_tokens_json, model));
  }
  std::unique_ptr<SentencePieceTokenizer> result(new SentencePieceTokenizer());
  T2R_ASSIGN_OR_RETURN(result->processor_, SentencePieceProcessor::Load(model_bytes));
  if (result->processor_->size() != static_cast<int>(model.pieces.size())) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.model: libsentencepiece reads ",
                                                   result->processor_->size(), " pieces, not ",
                                                   model.pieces.size()));
  }
  result->table_ = MakeTable(model);
  result->bos_ = model.FindControl(model.bos_piece);
  result->eos_ = model.FindControl(model.eos_piece);
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
  T2R_ASSIGN_OR_RETURN(std::vector<int32_t> ids, processor_->Encode(text));
  if (add_special_tokens && adds_bos_) ids.insert(ids.begin(), *bos_);
  if (add_special_tokens && adds_eos_) ids.push_back(*eos_);
  return ids;
}

}  // namespace t2r

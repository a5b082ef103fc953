#include "engine/tokenizer/sentencepiece/marian_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/bpe_model.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_model.h"

namespace t2r {
namespace {

using Type = SentencePieceModel::Type;

// The bytes of a language code at the start of a source, ">>" and "<<" included; 0: none.
size_t LanguageCodeLength(std::string_view text) {
  if (!text.starts_with(">>")) return 0;
  const size_t end = text.find("<<", 3);
  if (end == std::string_view::npos) return 0;
  return text.substr(0, end).find('\n') == std::string_view::npos ? end + 2 : 0;
}

absl::StatusOr<bool> ReadAppendEos(const std::optional<std::string>& config_json) {
  if (!config_json.has_value()) return true;
  const std::string file = "config.json";
  T2R_ASSIGN_OR_RETURN(const auto json, ParseJsonObject(*config_json, file));
  return BoolField(json, "source_append_eos", file, true);
}

// Names of tokens that are no text, whatever the files call special.
std::set<std::string> SpecialNames(const SentencePieceModel& model, const TokenizerConfig& config) {
  std::set<std::string> names = {"<pad>", "<s>", "</s>", "<unk>", "<blank>"};
  for (const auto& name :
       {config.bos_token, config.eos_token, config.unk_token, config.pad_token}) {
    if (name.has_value()) names.insert(*name);
  }
  for (const auto& piece : model.pieces) {
    if (piece.type == Type::kControl || piece.type == Type::kUnknown) names.insert(piece.text);
  }
  return names;
}

TokenTable MakeTable(const absl::flat_hash_map<std::string, int32_t>& ids,
                     const SentencePieceModel& model, const std::set<std::string>& special) {
  std::set<std::string> bytes;
  for (const auto& piece : model.pieces) {
    if (piece.type == Type::kByte) bytes.insert(piece.text);
  }
  // In the order of ids, so that the table does not depend on the map's.
  std::vector<std::pair<int32_t, std::string>> ordered;
  ordered.reserve(ids.size());
  for (const auto& [text, id] : ids) ordered.emplace_back(id, text);
  std::sort(ordered.begin(), ordered.end());
  TokenTable table;
  for (const auto& [id, text] : ordered) {
    const bool byte = bytes.count(text) > 0;
    const std::string inside =
        SentencePieceModel::Piece{text, byte ? Type::kByte : Type::kNormal}.Bytes();
    std::string_view start = inside;
    while (!byte && start.starts_with(' ')) start.remove_prefix(1);
    table.Set(id, inside, start, special.count(text) > 0);
  }
  return table;
}

absl::StatusOr<std::unique_ptr<SentencePieceProcessor>> LoadProcessor(const std::string& bytes,
                                                                      const std::string& file,
                                                                      SentencePieceModel* model) {
  T2R_ASSIGN_OR_RETURN(*model, SentencePieceModel::Parse(bytes, file));
  return SentencePieceProcessor::Load(bytes, file);
}

}  // namespace

absl::StatusOr<MarianTokenizer::Side> MarianTokenizer::ParseVocabulary(
    const std::string& json_text, const std::string& file, const TokenizerConfig& config) {
  T2R_ASSIGN_OR_RETURN(const auto json, ParseJsonObject(json_text, file));
  Side side;
  side.ids.reserve(json.size());
  for (const auto& [token, value] : json.items()) {
    T2R_ASSIGN_OR_RETURN(const int64_t id,
                         IntegerField(json, token.c_str(), file, 0, int64_t{kMaxTokenIds} - 1));
    side.ids[token] = static_cast<int32_t>(id);
    side.size = std::max(side.size, static_cast<int>(id) + 1);
  }
  const auto find = [&](const std::optional<std::string>& set, const char* usual,
                        int32_t* id) -> absl::Status {
    const std::string name = set.value_or(usual);
    const auto found = side.ids.find(name);
    if (found == side.ids.end()) {
      return InvalidAt(file, absl::StrCat("has no \"", name, "\""));
    }
    *id = found->second;
    return absl::OkStatus();
  };
  T2R_RETURN_IF_ERROR(find(config.unk_token, "<unk>", &side.unk));
  T2R_RETURN_IF_ERROR(find(config.eos_token, "</s>", &side.eos));
  return side;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MarianTokenizer::Parse(const MarianFiles& files,
                                                                  const TokenizerConfig& config) {
  if (config.separate_vocabs.value_or(false) && !files.target_vocab_json.has_value()) {
    return InvalidAt("target_vocab.json", "is missing; tokenizer_config.json has separate_vocabs");
  }
  std::unique_ptr<MarianTokenizer> result(new MarianTokenizer());
  T2R_ASSIGN_OR_RETURN(result->source_append_eos_, ReadAppendEos(files.config_json));
  T2R_ASSIGN_OR_RETURN(result->source_, ParseVocabulary(files.vocab_json, "vocab.json", config));
  if (files.target_vocab_json.has_value()) {
    T2R_ASSIGN_OR_RETURN(result->target_,
                         ParseVocabulary(*files.target_vocab_json, "target_vocab.json", config));
  } else {
    T2R_ASSIGN_OR_RETURN(result->target_, ParseVocabulary(files.vocab_json, "vocab.json", config));
  }
  SentencePieceModel source, target;
  T2R_ASSIGN_OR_RETURN(result->source_.processor,
                       LoadProcessor(files.source_spm, "source.spm", &source));
  T2R_ASSIGN_OR_RETURN(result->target_.processor,
                       LoadProcessor(files.target_spm, "target.spm", &target));
  const std::set<std::string> special = SpecialNames(target, config);
  result->table_ = MakeTable(result->target_.ids, target, special);
  // A text that no piece covers comes back as it is: without these, "</s>" in a text would be EOS.
  for (const std::string& name : SpecialNames(source, config)) result->source_.ids.erase(name);
  for (const std::string& name : special) result->target_.ids.erase(name);
  return std::unique_ptr<Tokenizer>(std::move(result));
}

absl::Status MarianTokenizer::AppendIds(const Side& side, std::string_view text,
                                        std::vector<int32_t>* ids) {
  T2R_ASSIGN_OR_RETURN(const std::vector<std::string> pieces, side.processor->EncodePieces(text));
  for (const std::string& piece : pieces) {
    const auto found = side.ids.find(piece);
    ids->push_back(found == side.ids.end() ? side.unk : found->second);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> MarianTokenizer::Encode(const std::string& text,
                                                             bool add_special_tokens) const {
  T2R_RETURN_IF_ERROR(CheckUtf8(text));
  std::vector<int32_t> ids;
  const size_t code = LanguageCodeLength(text);
  if (code > 0) {
    const auto found = source_.ids.find(text.substr(0, code));
    ids.push_back(found == source_.ids.end() ? source_.unk : found->second);
  }
  T2R_RETURN_IF_ERROR(AppendIds(source_, std::string_view(text).substr(code), &ids));
  if (add_special_tokens && source_append_eos_) ids.push_back(source_.eos);
  return ids;
}

absl::StatusOr<std::vector<int32_t>> MarianTokenizer::EncodeTarget(const std::string& text,
                                                                   bool add_special_tokens) const {
  T2R_RETURN_IF_ERROR(CheckUtf8(text));
  std::vector<int32_t> ids;
  T2R_RETURN_IF_ERROR(AppendIds(target_, text, &ids));
  if (add_special_tokens) ids.push_back(target_.eos);
  return ids;
}

}  // namespace t2r

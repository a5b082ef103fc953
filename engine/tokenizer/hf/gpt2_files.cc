// vocab.json and merges.txt.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/text/utf8.h"
#include "engine/tokenizer/hf/byte_level.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/hf/token_decoder.h"

namespace t2r {
namespace {

constexpr char kEndOfText[] = "<|endoftext|>";

absl::StatusOr<BpeModel::Vocabulary> VocabularyFrom(const std::string& text,
                                                    const std::string& file) {
  T2R_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, file));
  BpeModel::Vocabulary vocabulary;
  vocabulary.reserve(json.size());
  for (const auto& [token, id] : json.items()) {
    if (!id.is_number_integer() || id < 0 || id >= kMaxTokenIds) {
      return InvalidAt(
          file, absl::StrCat("the id of \"", token, "\" must be in [0, ", kMaxTokenIds, ")"));
    }
    vocabulary.emplace(token, id.get<int32_t>());
  }
  return vocabulary;
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> MergesFrom(
    const std::string& text) {
  const std::string file = "merges.txt";
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid != std::string_view::npos) {
    return InvalidAt(file, absl::StrCat("is not valid UTF-8 at byte ", invalid));
  }
  std::vector<std::pair<std::string, std::string>> merges;
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.starts_with("#version") || line.empty()) continue;
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      return InvalidAt(file, absl::StrCat("line ", line_number, " must be two tokens"));
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseGpt2Files(const std::string& vocab_json,
                                                          const std::string& merges_txt,
                                                          const TokenizerConfig& config) {
  const std::string& name = config.tokenizer_class;
  if (!name.empty() && !name.starts_with("GPT2Tokenizer")) {
    return UnsupportedAt(
        "tokenizer_config.json: tokenizer_class",
        absl::StrCat("\"", name, "\" with vocab.json and merges.txt alone (add a tokenizer.json)"));
  }
  HfTokenizer::Parts parts;
  T2R_ASSIGN_OR_RETURN(auto vocabulary, VocabularyFrom(vocab_json, "vocab.json"));
  T2R_ASSIGN_OR_RETURN(const auto merges, MergesFrom(merges_txt));
  T2R_ASSIGN_OR_RETURN(
      parts.model, BpeModel::Create(std::move(vocabulary), merges, {}, "vocab.json, merges.txt"));
  T2R_ASSIGN_OR_RETURN(parts.pre_tokenizer,
                       PreTokenizer::Gpt2(config.add_prefix_space.value_or(false)));

  const TokenDecoder decoder = TokenDecoder::ByteLevel();
  for (const auto& [token, id] : parts.model.vocabulary()) {
    const std::string bytes = decoder.Bytes(token);
    parts.table.Set(id, bytes, bytes, false);
  }
  const std::string bos = config.bos_token.value_or(kEndOfText);
  const std::string eos = config.eos_token.value_or(kEndOfText);
  std::vector<AddedToken> added = config.tokens;
  if (parts.model.Find(kEndOfText).has_value()) {
    added.push_back({.content = kEndOfText, .special = true, .normalized = false});
  }
  const auto in_model = [&](const std::string& token) { return parts.model.Find(token); };
  NumberAddedTokens(in_model, static_cast<int32_t>(parts.model.vocabulary().size()), &added, 0);
  for (const AddedToken& token : added) {
    const bool special = token.special || token.content == kEndOfText;
    parts.added.Add(token, token.content);
    parts.table.Set(token.id, token.content, token.content, special);
    if (token.content == bos) parts.bos = token.id;
    if (token.content == eos) parts.eos = token.id;
  }
  if (config.add_bos_token.value_or(false)) {
    if (!parts.bos.has_value()) {
      return InvalidAt("tokenizer_config.json",
                       "add_bos_token is true, but the vocabulary has no " + bos);
    }
    parts.prefix.push_back(*parts.bos);
  }
  return std::unique_ptr<Tokenizer>(std::make_unique<HfTokenizer>(std::move(parts)));
}

}  // namespace t2r

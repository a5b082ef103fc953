// tokenizer.json.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/hf/post_processor.h"
#include "engine/tokenizer/hf/token_decoder.h"

namespace t2r {
namespace {

constexpr char kFile[] = "tokenizer.json";
constexpr char kModel[] = "tokenizer.json: model";

const Json& ValueOrNull(const Json& object, const char* key) {
  static const Json null;
  const Json* value = FindField(object, key);
  return value == nullptr ? null : *value;
}

// What changes the segmentation and is not done.
absl::Status RefuseModelFields(const Json& model) {
  const Json* dropout = FindField(model, "dropout");
  if (dropout != nullptr && *dropout != 0) return UnsupportedAt(kModel, "dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    T2R_ASSIGN_OR_RETURN(const std::string value, StringField(model, key, kModel, ""));
    if (!value.empty()) return UnsupportedAt(kModel, key);
  }
  return absl::OkStatus();
}

absl::StatusOr<BpeModel::Vocabulary> VocabularyFromJson(const Json& model) {
  const Json* vocab = FindField(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return InvalidAt(kModel, "vocab must be an object");
  BpeModel::Vocabulary vocabulary;
  vocabulary.reserve(vocab->size());
  for (const auto& [token, id] : vocab->items()) {
    if (!id.is_number_integer() || id < 0 || id >= kMaxTokenIds) {
      return InvalidAt(kModel, absl::StrCat("vocab: the id of \"", token, "\" must be in [0, ",
                                            kMaxTokenIds, ")"));
    }
    vocabulary.emplace(token, id.get<int32_t>());
  }
  return vocabulary;
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> MergesFromJson(const Json& model) {
  T2R_ASSIGN_OR_RETURN(const Json* list, ArrayField(model, "merges", kModel));
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list->size());
  for (const Json& merge : *list) {
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    return InvalidAt(kModel, absl::StrCat("merges[", merges.size(),
                                          "] must be \"left right\" or [\"left\", \"right\"]"));
  }
  return merges;
}

absl::StatusOr<BpeModel> ModelFromJson(const Json& root) {
  const Json& model = ValueOrNull(root, "model");
  if (!model.is_object()) return InvalidAt(kFile, "model must be an object");
  T2R_ASSIGN_OR_RETURN(const std::string type, StringField(model, "type", kModel, "BPE"));
  if (type != "BPE") return UnsupportedAt(kModel, absl::StrCat("type \"", type, "\""));
  T2R_RETURN_IF_ERROR(RefuseModelFields(model));
  BpeModel::Options options;
  if (FindField(model, "unk_token") != nullptr) {
    T2R_ASSIGN_OR_RETURN(options.unknown, StringField(model, "unk_token", kModel));
  }
  T2R_ASSIGN_OR_RETURN(options.byte_fallback, BoolField(model, "byte_fallback", kModel, false));
  T2R_ASSIGN_OR_RETURN(options.fuse_unknown, BoolField(model, "fuse_unk", kModel, false));
  T2R_ASSIGN_OR_RETURN(options.ignore_merges, BoolField(model, "ignore_merges", kModel, false));
  T2R_ASSIGN_OR_RETURN(auto vocabulary, VocabularyFromJson(model));
  T2R_ASSIGN_OR_RETURN(const auto merges, MergesFromJson(model));
  return BpeModel::Create(std::move(vocabulary), merges, std::move(options), kFile);
}

absl::StatusOr<std::vector<AddedToken>> AddedTokensFromJson(const Json& root,
                                                            const BpeModel& model) {
  std::vector<AddedToken> tokens;
  if (FindField(root, "added_tokens") == nullptr) return tokens;
  T2R_ASSIGN_OR_RETURN(const Json* list, ArrayField(root, "added_tokens", kFile));
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& json = (*list)[i];
    const std::string where = absl::StrCat(kFile, ": added_tokens[", i, "]");
    if (!json.is_object()) return InvalidAt(where, "must be an object");
    AddedToken token;
    T2R_ASSIGN_OR_RETURN(const int64_t id, IntegerField(json, "id", where, 0, kMaxTokenIds - 1));
    token.id = static_cast<int32_t>(id);
    T2R_ASSIGN_OR_RETURN(token.content, StringField(json, "content", where));
    T2R_ASSIGN_OR_RETURN(token.special, BoolField(json, "special", where, false));
    T2R_ASSIGN_OR_RETURN(token.single_word, BoolField(json, "single_word", where, false));
    T2R_ASSIGN_OR_RETURN(token.lstrip, BoolField(json, "lstrip", where, false));
    T2R_ASSIGN_OR_RETURN(token.rstrip, BoolField(json, "rstrip", where, false));
    T2R_ASSIGN_OR_RETURN(token.normalized, BoolField(json, "normalized", where, !token.special));
    if (token.content.size() > AddedTokenFinder::kMaxContentBytes) {
      return InvalidAt(where,
                       absl::StrCat("content has ", token.content.size(), " bytes; the limit is ",
                                    AddedTokenFinder::kMaxContentBytes));
    }
    const auto known = model.Find(token.content);
    if (known.has_value() && *known != token.id) {
      return InvalidAt(where,
                       absl::StrCat("id ", token.id, " differs from the vocabulary's, ", *known));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// Ids of BOS and EOS by their names.
class TokenIds {
 public:
  TokenIds(const BpeModel& model, const std::vector<AddedToken>& added)
      : model_(model), added_(added) {}

  std::optional<int32_t> Find(const std::optional<std::string>& token) const {
    if (!token.has_value()) return std::nullopt;
    for (const AddedToken& added : added_) {
      if (added.content == *token) return added.id;
    }
    return model_.Find(*token);
  }

 private:
  const BpeModel& model_;
  const std::vector<AddedToken>& added_;
};

absl::Status SetSpecialTokens(const Json& root, const TokenizerConfig& config, const TokenIds& ids,
                              HfTokenizer::Parts* parts) {
  const bool llama = config.IsLlamaClass();
  parts->bos = ids.Find(llama && !config.bos_token ? "<s>" : config.bos_token);
  parts->eos = ids.Find(llama && !config.eos_token ? "</s>" : config.eos_token);
  T2R_ASSIGN_OR_RETURN(const PostProcessor post,
                       PostProcessor::FromJson(ValueOrNull(root, "post_processor"),
                                               "tokenizer.json: post_processor", kMaxTokenIds));
  parts->prefix = post.prefix;
  parts->suffix = post.suffix;
  if (llama) {
    const bool add_bos = config.add_bos_token.value_or(true);
    const bool add_eos = config.add_eos_token.value_or(false);
    if ((add_bos && !parts->bos) || (add_eos && !parts->eos)) {
      return InvalidAt("tokenizer_config.json",
                       absl::StrCat(add_bos && !parts->bos ? "bos_token" : "eos_token",
                                    " is to be added but is not in tokenizer.json"));
    }
    parts->prefix.clear();
    parts->suffix.clear();
    if (add_bos) parts->prefix.push_back(*parts->bos);
    if (add_eos) parts->suffix.push_back(*parts->eos);
  }
  if (!parts->bos && !config.bos_token && !parts->prefix.empty()) parts->bos = parts->prefix[0];
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(const std::string& tokenizer_json,
                                                              const TokenizerConfig& config) {
  T2R_ASSIGN_OR_RETURN(const Json root, ParseJsonObject(tokenizer_json, kFile));
  HfTokenizer::Parts parts;
  T2R_ASSIGN_OR_RETURN(parts.model, ModelFromJson(root));
  T2R_ASSIGN_OR_RETURN(parts.normalizer, Normalizer::FromJson(ValueOrNull(root, "normalizer"),
                                                              "tokenizer.json: normalizer"));
  T2R_ASSIGN_OR_RETURN(
      parts.pre_tokenizer,
      PreTokenizer::FromJson(ValueOrNull(root, "pre_tokenizer"), "tokenizer.json: pre_tokenizer"));
  T2R_ASSIGN_OR_RETURN(
      const TokenDecoder decoder,
      TokenDecoder::FromJson(ValueOrNull(root, "decoder"), "tokenizer.json: decoder"));
  T2R_ASSIGN_OR_RETURN(auto added, AddedTokensFromJson(root, parts.model));
  const size_t numbered = added.size();
  added.insert(added.end(), config.tokens.begin(), config.tokens.end());
  const auto find = [&](const std::string& token) { return parts.model.Find(token); };
  NumberAddedTokens(find, static_cast<int32_t>(parts.model.vocabulary().size()), &added, numbered);

  for (const auto& [token, id] : parts.model.vocabulary()) {
    parts.table.Set(id, decoder.Bytes(token), decoder.BytesAtStart(token), false);
  }
  for (const AddedToken& token : added) {
    if (token.special || config.IsNamed(token.content)) {
      parts.table.Set(token.id, token.content, token.content, true);
    } else {
      parts.table.Set(token.id, decoder.Bytes(token.content), decoder.BytesAtStart(token.content),
                      false);
    }
    if (token.normalized) {
      T2R_ASSIGN_OR_RETURN(const std::string pattern, parts.normalizer.Apply(token.content));
      parts.normalized_added.Add(token, pattern);
    } else {
      parts.added.Add(token, token.content);
    }
  }
  T2R_RETURN_IF_ERROR(SetSpecialTokens(root, config, TokenIds(parts.model, added), &parts));
  return std::unique_ptr<Tokenizer>(std::make_unique<HfTokenizer>(std::move(parts)));
}

}  // namespace t2r

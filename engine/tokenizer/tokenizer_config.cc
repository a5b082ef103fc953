// tokenizer_config.json, special_tokens_map.json and added_tokens.json.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"

namespace t2r {
namespace {

constexpr char kConfig[] = "tokenizer_config.json";
constexpr size_t kMaxListed = 1 << 17;  // tokens of one list or map

// {"content": "<s>", "lstrip": false, …}, as added_tokens_decoder and the names have it.
absl::StatusOr<AddedToken> TokenFromObject(const Json& json, const std::string& where,
                                           bool special) {
  AddedToken token;
  T2R_ASSIGN_OR_RETURN(token.content, StringField(json, "content", where));
  T2R_ASSIGN_OR_RETURN(token.special, BoolField(json, "special", where, false));
  token.special = token.special || special;
  T2R_ASSIGN_OR_RETURN(token.single_word, BoolField(json, "single_word", where, false));
  T2R_ASSIGN_OR_RETURN(token.lstrip, BoolField(json, "lstrip", where, false));
  T2R_ASSIGN_OR_RETURN(token.rstrip, BoolField(json, "rstrip", where, false));
  T2R_ASSIGN_OR_RETURN(token.normalized, BoolField(json, "normalized", where, !token.special));
  if (token.content.size() > AddedTokenFinder::kMaxContentBytes) {
    return InvalidAt(where,
                     absl::StrCat("content has ", token.content.size(), " bytes; the limit is ",
                                  AddedTokenFinder::kMaxContentBytes));
  }
  return token;
}

// A named special token: "<s>" or {"content": "<s>", …}.
absl::StatusOr<AddedToken> TokenFromValue(const Json& value, const std::string& where) {
  if (value.is_object()) return TokenFromObject(value, where, true);
  if (!value.is_string()) return InvalidAt(where, "must be a string or an object");
  return TokenFromObject(Json{{"content", value}}, where, true);
}

// The special tokens of one file, by their names: "bos_token", …; lists have many.
using NamedTokens = std::map<std::string, std::vector<AddedToken>>;

constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};
constexpr const char* kLists[] = {"additional_special_tokens", "extra_special_tokens"};

absl::StatusOr<NamedTokens> ReadNames(const Json& json, const std::string& file) {
  NamedTokens names;
  for (const char* key : kNames) {
    const Json* value = FindField(json, key);
    if (value == nullptr) continue;
    T2R_ASSIGN_OR_RETURN(AddedToken token, TokenFromValue(*value, absl::StrCat(file, ": ", key)));
    names[key] = {std::move(token)};
  }
  for (const char* key : kLists) {
    const Json* list = FindField(json, key);
    if (list == nullptr) continue;
    const std::string where = absl::StrCat(file, ": ", key);
    // extra_special_tokens may be a map from a name to a token.
    if (!list->is_structured() || list->size() > kMaxListed) {
      return InvalidAt(where, absl::StrCat("must be a list of at most ", kMaxListed, " tokens"));
    }
    for (const Json& value : *list) {
      T2R_ASSIGN_OR_RETURN(AddedToken token, TokenFromValue(value, where));
      names[key].push_back(std::move(token));
    }
  }
  return names;
}

absl::StatusOr<std::optional<bool>> FlagField(const Json& json, const char* key,
                                              const std::string& file) {
  if (FindField(json, key) == nullptr) return std::optional<bool>();
  T2R_ASSIGN_OR_RETURN(const bool value, BoolField(json, key, file));
  return std::optional<bool>(value);
}

using TokensById = std::map<int64_t, AddedToken>;

absl::StatusOr<TokensById> ReadDecoder(const Json& decoder) {
  const std::string where = absl::StrCat(kConfig, ": added_tokens_decoder");
  TokensById tokens;
  if (!decoder.is_object() || decoder.size() > kMaxListed) {
    return InvalidAt(where, absl::StrCat("must be an object with at most ", kMaxListed, " tokens"));
  }
  for (const auto& [key, value] : decoder.items()) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= kMaxTokenIds || !value.is_object()) {
      return InvalidAt(where, absl::StrCat("\"", key, "\" must be an id in [0, ", kMaxTokenIds,
                                           ") and its value an object"));
    }
    T2R_ASSIGN_OR_RETURN(tokens[id], TokenFromObject(value, absl::StrCat(where, ".", key), false));
  }
  return tokens;
}

// {"<s>": 1, …}
absl::StatusOr<TokensById> ReadAddedTokens(const std::string& text, const NamedTokens& names) {
  const std::string file = "added_tokens.json";
  T2R_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, file));
  TokensById tokens;
  for (const auto& [content, value] : json.items()) {
    T2R_ASSIGN_OR_RETURN(const int64_t id,
                         IntegerField(json, content.c_str(), file, 0, int64_t{kMaxTokenIds} - 1));
    bool special = false;
    for (const auto& [name, named] : names) {
      for (const AddedToken& token : named) special = special || token.content == content;
    }
    T2R_ASSIGN_OR_RETURN(tokens[id],
                         TokenFromObject(Json{{"content", content}, {"special", special}},
                                         absl::StrCat(file, ": ", id), special));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<TokenizerConfig> TokenizerConfig::Parse(
    const std::optional<std::string>& tokenizer_config_json,
    const std::optional<std::string>& special_tokens_map_json,
    const std::optional<std::string>& added_tokens_json) {
  TokenizerConfig config;
  T2R_ASSIGN_OR_RETURN(const Json json,
                       ParseJsonObject(tokenizer_config_json.value_or("{}"), kConfig));
  T2R_ASSIGN_OR_RETURN(NamedTokens names, ReadNames(json, kConfig));
  TokensById added;
  if (const Json* decoder = FindField(json, "added_tokens_decoder")) {
    T2R_ASSIGN_OR_RETURN(added, ReadDecoder(*decoder));
  } else {
    if (special_tokens_map_json.has_value()) {
      const std::string file = "special_tokens_map.json";
      T2R_ASSIGN_OR_RETURN(const Json map, ParseJsonObject(*special_tokens_map_json, file));
      T2R_ASSIGN_OR_RETURN(NamedTokens more, ReadNames(map, file));
      for (auto& [name, tokens] : more) names[name] = std::move(tokens);
    }
    if (added_tokens_json.has_value()) {
      T2R_ASSIGN_OR_RETURN(added, ReadAddedTokens(*added_tokens_json, names));
    }
  }
  for (auto& [id, token] : added) config.tokens.push_back(std::move(token));
  const auto take = [&](const char* name, std::optional<std::string>* content) {
    const auto found = names.find(name);
    if (found == names.end()) return;
    for (AddedToken& token : found->second) {
      if (content != nullptr) *content = token.content;
      config.named.push_back(token.content);
      config.tokens.push_back(std::move(token));
    }
  };
  take("bos_token", &config.bos_token);
  take("eos_token", &config.eos_token);
  take("unk_token", &config.unk_token);
  take("sep_token", nullptr);
  take("pad_token", &config.pad_token);
  take("cls_token", nullptr);
  take("mask_token", nullptr);
  for (const char* key : kLists) take(key, nullptr);
  for (AddedToken& token : config.tokens)
    token.special = token.special || config.IsNamed(token.content);

  T2R_ASSIGN_OR_RETURN(config.tokenizer_class, StringField(json, "tokenizer_class", kConfig, ""));
  const struct {
    const char* key;
    std::optional<bool>* value;
  } flags[] = {{"add_bos_token", &config.add_bos_token},
               {"add_eos_token", &config.add_eos_token},
               {"add_prefix_space", &config.add_prefix_space},
               {"legacy", &config.legacy},
               {"separate_vocabs", &config.separate_vocabs}};
  for (const auto& flag : flags) {
    T2R_ASSIGN_OR_RETURN(*flag.value, FlagField(json, flag.key, kConfig));
  }
  return config;
}

bool TokenizerConfig::IsNamed(const std::string& token) const {
  return std::find(named.begin(), named.end(), token) != named.end();
}

bool TokenizerConfig::IsLlamaClass() const {
  for (const char* name : {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"}) {
    if (tokenizer_class == name || tokenizer_class == std::string(name) + "Fast") return true;
  }
  return false;
}

}  // namespace t2r

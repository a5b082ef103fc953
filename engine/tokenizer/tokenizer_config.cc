// tokenizer_config.json and special_tokens_map.json.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"

namespace t2r {
namespace {

// "<s>" or {"content": "<s>", …}; nullopt when absent.
absl::StatusOr<std::optional<std::string>> TokenField(const Json& json, const char* key,
                                                      const std::string& file) {
  const Json* value = FindField(json, key);
  if (value == nullptr) return std::optional<std::string>();
  if (value->is_object()) {
    T2R_ASSIGN_OR_RETURN(std::string content,
                         StringField(*value, "content", absl::StrCat(file, ": ", key)));
    return std::optional<std::string>(std::move(content));
  }
  T2R_ASSIGN_OR_RETURN(std::string content, StringField(json, key, file));
  return std::optional<std::string>(std::move(content));
}

absl::StatusOr<std::optional<bool>> FlagField(const Json& json, const char* key,
                                              const std::string& file) {
  if (FindField(json, key) == nullptr) return std::optional<bool>();
  T2R_ASSIGN_OR_RETURN(const bool value, BoolField(json, key, file));
  return std::optional<bool>(value);
}

absl::Status ReadTokens(const std::string& text, const std::string& file, TokenizerConfig* config) {
  T2R_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, file));
  T2R_ASSIGN_OR_RETURN(const auto bos, TokenField(json, "bos_token", file));
  T2R_ASSIGN_OR_RETURN(const auto eos, TokenField(json, "eos_token", file));
  T2R_ASSIGN_OR_RETURN(const auto unk, TokenField(json, "unk_token", file));
  T2R_ASSIGN_OR_RETURN(const auto pad, TokenField(json, "pad_token", file));
  if (unk.has_value()) config->unk_token = unk;
  if (pad.has_value()) config->pad_token = pad;
  if (bos.has_value()) config->bos_token = bos;
  if (eos.has_value()) config->eos_token = eos;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerConfig> TokenizerConfig::Parse(
    const std::optional<std::string>& tokenizer_config_json,
    const std::optional<std::string>& special_tokens_map_json) {
  TokenizerConfig config;
  if (special_tokens_map_json.has_value()) {
    T2R_RETURN_IF_ERROR(ReadTokens(*special_tokens_map_json, "special_tokens_map.json", &config));
  }
  if (!tokenizer_config_json.has_value()) return config;
  const std::string file = "tokenizer_config.json";
  T2R_RETURN_IF_ERROR(ReadTokens(*tokenizer_config_json, file, &config));
  T2R_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(*tokenizer_config_json, file));
  T2R_ASSIGN_OR_RETURN(config.tokenizer_class, StringField(json, "tokenizer_class", file, ""));
  T2R_ASSIGN_OR_RETURN(config.add_bos_token, FlagField(json, "add_bos_token", file));
  T2R_ASSIGN_OR_RETURN(config.add_eos_token, FlagField(json, "add_eos_token", file));
  T2R_ASSIGN_OR_RETURN(const auto prefix, FlagField(json, "add_prefix_space", file));
  config.add_prefix_space = prefix.value_or(false);
  T2R_ASSIGN_OR_RETURN(config.separate_vocabs, FlagField(json, "separate_vocabs", file));
  return config;
}

bool TokenizerConfig::IsLlamaClass() const {
  for (const char* name : {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"}) {
    if (tokenizer_class == name || tokenizer_class == std::string(name) + "Fast") return true;
  }
  return false;
}

}  // namespace t2r

#include "engine/tokenizer/hf/token_decoder.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/byte_level.h"
#include "engine/tokenizer/hf/pre_tokenizer.h"

namespace t2r {
namespace {

std::string ReplaceAll(const std::string& text, const std::string& pattern,
                       const std::string& content) {
  std::string result;
  size_t done = 0;
  for (size_t at = text.find(pattern); at != std::string::npos; at = text.find(pattern, done)) {
    result.append(text, done, at - done).append(content);
    done = at + pattern.size();
  }
  return result.append(text, done);
}

// "<0x41>" as its byte.
std::optional<char> ByteOfName(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : {token[3], token[4]}) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(value);
}

}  // namespace

TokenDecoder TokenDecoder::ByteLevel() {
  TokenDecoder decoder;
  decoder.byte_level_ = true;
  return decoder;
}

absl::Status TokenDecoder::AddMetaspace(const Json& json, const std::string& where) {
  T2R_ASSIGN_OR_RETURN(const std::string replacement, StringField(json, "replacement", where));
  if (replacement.empty()) return InvalidAt(where, "replacement is empty");
  T2R_ASSIGN_OR_RETURN(const PrependScheme scheme, PrependSchemeFromJson(json, where));
  if (scheme != PrependScheme::kNever) dropped_at_start_ = replacement;
  replacements_.emplace_back(replacement, " ");
  return absl::OkStatus();
}

absl::Status TokenDecoder::AddStrip(const Json& json, const std::string& where) {
  T2R_ASSIGN_OR_RETURN(const std::string content, StringField(json, "content", where));
  T2R_ASSIGN_OR_RETURN(const int64_t start, IntegerField(json, "start", where, 0, 1024));
  T2R_ASSIGN_OR_RETURN(const int64_t stop, IntegerField(json, "stop", where, 0, 1024));
  if (content.empty()) return InvalidAt(where, "content is empty");
  if (stop != 0) return UnsupportedAt(where, "a stop other than 0");
  if (!fused_) return UnsupportedAt(where, "Strip before Fuse");
  if (strip_count_ != 0) return UnsupportedAt(where, "a second Strip");
  stripped_ = content;
  strip_count_ = static_cast<int>(start);
  return absl::OkStatus();
}

absl::Status TokenDecoder::AddStep(const Json& json, const std::string& where) {
  if (!json.is_object()) return InvalidAt(where, "must be an object");
  T2R_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  if (type == "Strip") return AddStrip(json, where);
  if (type != "Fuse" && type != "Replace" && type != "ByteFallback") {
    return UnsupportedAt(where, absl::StrCat("type \"", type, "\" in a sequence"));
  }
  if (type == "Fuse") {
    fused_ = true;
    return absl::OkStatus();
  }
  if (fused_) return UnsupportedAt(where, absl::StrCat(type, " after Fuse"));
  if (type == "ByteFallback") {
    byte_fallback_ = true;
    return absl::OkStatus();
  }
  if (byte_fallback_) return UnsupportedAt(where, "Replace after ByteFallback");
  const Json* pattern = FindField(json, "pattern");
  if (pattern == nullptr || !pattern->is_object()) return InvalidAt(where, "pattern is missing");
  if (FindField(*pattern, "String") == nullptr) {
    return UnsupportedAt(where, "a pattern other than String");
  }
  T2R_ASSIGN_OR_RETURN(const std::string text, StringField(*pattern, "String", where + ".pattern"));
  T2R_ASSIGN_OR_RETURN(const std::string content, StringField(json, "content", where));
  if (text.empty()) return InvalidAt(where, "pattern is empty");
  if (content.size() > text.size()) {
    return UnsupportedAt(where, "a content longer than the pattern");
  }
  replacements_.emplace_back(text, content);
  return absl::OkStatus();
}

absl::StatusOr<TokenDecoder> TokenDecoder::FromJson(const Json& json, const std::string& where) {
  if (json.is_null()) return UnsupportedAt(where, "null (tokens joined by spaces)");
  if (!json.is_object()) return InvalidAt(where, "must be an object");
  TokenDecoder decoder;
  T2R_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  if (type == "ByteLevel") return ByteLevel();
  if (type == "Metaspace") {
    T2R_RETURN_IF_ERROR(decoder.AddMetaspace(json, where));
    return decoder;
  }
  if (type != "Sequence") {
    T2R_RETURN_IF_ERROR(decoder.AddStep(json, where));
    return decoder;
  }
  T2R_ASSIGN_OR_RETURN(const Json* parts, ArrayField(json, "decoders", where));
  if (parts->size() == 1) return FromJson((*parts)[0], where + ".decoders[0]");
  for (size_t i = 0; i < parts->size(); ++i) {
    T2R_RETURN_IF_ERROR(decoder.AddStep((*parts)[i], absl::StrCat(where, ".decoders[", i, "]")));
  }
  return decoder;
}

std::string TokenDecoder::Apply(const std::string& token, bool at_start) const {
  if (byte_level_) return CharactersToBytes(token).value_or(token);
  std::string text = token;
  if (at_start && !dropped_at_start_.empty()) text = ReplaceAll(text, dropped_at_start_, "");
  for (const auto& [pattern, content] : replacements_) text = ReplaceAll(text, pattern, content);
  if (byte_fallback_) {
    if (const auto byte = ByteOfName(text)) text.assign(1, *byte);
  }
  for (int i = 0; at_start && i < strip_count_ && text.starts_with(stripped_); ++i) {
    text.erase(0, stripped_.size());
  }
  return text;
}

}  // namespace t2r

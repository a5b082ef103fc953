#include "engine/tokenizer/hf/post_processor.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"

namespace t2r {
namespace {

constexpr size_t kMaxAround = 64;  // tokens around a text

absl::StatusOr<int32_t> IdFrom(const Json& json, const std::string& where, int32_t id_limit) {
  if (!json.is_number_integer() || json < 0 || json >= id_limit) {
    return InvalidAt(where, absl::StrCat("a token id must be in [0, ", id_limit, ")"));
  }
  return json.get<int32_t>();
}

absl::Status AppendSpecialToken(const Json& json, const std::string& name, const std::string& where,
                                int32_t id_limit, std::vector<int32_t>* ids) {
  const Json* tokens = FindField(json, "special_tokens");
  const Json* token = tokens == nullptr ? nullptr : FindField(*tokens, name.c_str());
  if (token == nullptr) {
    return InvalidAt(where, absl::StrCat("special_tokens has no \"", name, "\""));
  }
  T2R_ASSIGN_OR_RETURN(const Json* list, ArrayField(*token, "ids", where));
  for (const Json& id : *list) {
    T2R_ASSIGN_OR_RETURN(const int32_t value, IdFrom(id, where, id_limit));
    ids->push_back(value);
  }
  return absl::OkStatus();
}

absl::StatusOr<PostProcessor> FromTemplate(const Json& json, const std::string& where,
                                           int32_t id_limit) {
  PostProcessor result;
  bool after_text = false;
  T2R_ASSIGN_OR_RETURN(const Json* single, ArrayField(json, "single", where));
  for (const Json& piece : *single) {
    if (const Json* text = FindField(piece, "Sequence")) {
      T2R_ASSIGN_OR_RETURN(const std::string id, StringField(*text, "id", where));
      if (id != "A" || after_text) {
        return InvalidAt(where, "single must hold the sequence A once and no other");
      }
      after_text = true;
      continue;
    }
    const Json* special = FindField(piece, "SpecialToken");
    if (special == nullptr) return InvalidAt(where, "single must hold SpecialToken and Sequence");
    T2R_ASSIGN_OR_RETURN(const std::string name, StringField(*special, "id", where));
    T2R_RETURN_IF_ERROR(AppendSpecialToken(json, name, where, id_limit,
                                           after_text ? &result.suffix : &result.prefix));
  }
  if (!after_text) return InvalidAt(where, "single has no Sequence");
  return result;
}

absl::StatusOr<PostProcessor> FromClsSep(const Json& json, const std::string& where,
                                         int32_t id_limit) {
  PostProcessor result;
  for (const char* key : {"cls", "sep"}) {
    T2R_ASSIGN_OR_RETURN(const Json* pair, ArrayField(json, key, where));
    if (pair->size() != 2) return InvalidAt(where, absl::StrCat(key, " must be [token, id]"));
    T2R_ASSIGN_OR_RETURN(const int32_t id, IdFrom((*pair)[1], where, id_limit));
    (key[0] == 'c' ? result.prefix : result.suffix).push_back(id);
  }
  return result;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::FromJson(const Json& json, const std::string& where,
                                                      int32_t id_limit) {
  PostProcessor result;
  if (json.is_null()) return result;
  if (!json.is_object()) return InvalidAt(where, "must be an object");
  T2R_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  if (type == "ByteLevel") return result;  // it changes offsets only
  if (type == "TemplateProcessing") return FromTemplate(json, where, id_limit);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return FromClsSep(json, where, id_limit);
  }
  if (type != "Sequence") {
    return UnsupportedAt(where, absl::StrCat("type \"", type, "\""));
  }
  T2R_ASSIGN_OR_RETURN(const Json* parts, ArrayField(json, "processors", where));
  for (size_t i = 0; i < parts->size(); ++i) {  // each wraps what the one before made
    T2R_ASSIGN_OR_RETURN(
        const PostProcessor part,
        FromJson((*parts)[i], absl::StrCat(where, ".processors[", i, "]"), id_limit));
    result.prefix.insert(result.prefix.begin(), part.prefix.begin(), part.prefix.end());
    result.suffix.insert(result.suffix.end(), part.suffix.begin(), part.suffix.end());
    if (result.prefix.size() + result.suffix.size() > kMaxAround) {
      return InvalidAt(where, absl::StrCat("puts more than ", kMaxAround, " tokens around a text"));
    }
  }
  return result;
}

}  // namespace t2r

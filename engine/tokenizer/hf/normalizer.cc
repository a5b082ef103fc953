#include "engine/tokenizer/hf/normalizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/text/nfc.h"
#include "engine/tokenizer/hf/pre_tokenizer.h"

namespace t2r {
namespace {

constexpr int kMaxNesting = 8;

std::string ReplaceAt(const std::string& text, const std::vector<Match>& matches,
                      const std::string& content) {
  std::string result;
  result.reserve(text.size());
  size_t end = 0;
  for (const Match& match : matches) {
    result.append(text, end, match.begin - end).append(content);
    end = match.end;
  }
  return result.append(text, end);
}

}  // namespace

absl::Status Normalizer::AddSteps(const Json& json, const std::string& where, int nesting,
                                  std::vector<Step>* steps) {
  if (!json.is_object()) return InvalidAt(where, "must be an object");
  T2R_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  if (type == "Sequence") {
    if (nesting >= kMaxNesting) {
      return InvalidAt(where,
                       absl::StrCat("sequences are nested more than ", kMaxNesting, " deep"));
    }
    T2R_ASSIGN_OR_RETURN(const Json* parts, ArrayField(json, "normalizers", where));
    for (size_t i = 0; i < parts->size(); ++i) {
      T2R_RETURN_IF_ERROR(
          AddSteps((*parts)[i], absl::StrCat(where, ".normalizers[", i, "]"), nesting + 1, steps));
    }
    return absl::OkStatus();
  }
  if (type == "NFC") {
    steps->push_back(
        [](const std::string& text) -> absl::StatusOr<std::string> { return ToNfc(text); });
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    T2R_ASSIGN_OR_RETURN(std::string prefix, StringField(json, "prepend", where));
    steps->push_back(
        [prefix = std::move(prefix)](const std::string& text) -> absl::StatusOr<std::string> {
          return text.empty() ? text : prefix + text;
        });
    return absl::OkStatus();
  }
  if (type == "Replace") {
    const Json* pattern = FindField(json, "pattern");
    if (pattern == nullptr) return InvalidAt(where, "pattern is missing");
    T2R_ASSIGN_OR_RETURN(Regex regex, PatternFromJson(*pattern, where + ".pattern"));
    T2R_ASSIGN_OR_RETURN(std::string content, StringField(json, "content", where));
    steps->push_back([regex = std::move(regex), content = std::move(content)](
                         const std::string& text) -> absl::StatusOr<std::string> {
      T2R_ASSIGN_OR_RETURN(const std::vector<Match> matches, regex.FindAll(text));
      return ReplaceAt(text, matches, content);
    });
    return absl::OkStatus();
  }
  return UnsupportedAt(where, absl::StrCat("type \"", type, "\""));
}

absl::StatusOr<Normalizer> Normalizer::FromJson(const Json& json, const std::string& where) {
  Normalizer result;
  if (json.is_null()) return result;
  T2R_RETURN_IF_ERROR(AddSteps(json, where, 0, &result.steps_));
  return result;
}

absl::StatusOr<std::string> Normalizer::Apply(std::string text) const {
  for (const Step& step : steps_) {
    T2R_ASSIGN_OR_RETURN(text, step(std::move(text)));
  }
  return text;
}

}  // namespace t2r

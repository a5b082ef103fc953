// Pre-tokenizers as tokenizer.json describes them.
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/text/utf8.h"
#include "engine/tokenizer/hf/pre_tokenizer.h"

namespace t2r {
namespace {

using Steps = std::vector<std::shared_ptr<const PreTokenizer::Step>>;

constexpr int kMaxNesting = 8;

// The pattern GPT-2 cuts words with.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The kinds below are no patterns of a file but classes of Rust: those of its regex library, whose
// \w (unlike Oniguruma's) takes the join controls, and punctuation as its crate
// unicode_categories knows it, which is older than what it lacks here.
constexpr char kRustWords[] =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+)"
    R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+)";
constexpr char kRustSpace[] = R"(\p{White_Space})";
constexpr char kRustPunctuation[] =
    R"((?![\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B4E}-\x{1B4F}\x{1B7D}-\x{1B7F})"
    R"(\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D}\x{10D6E}\x{10EAD}\x{10F55}-\x{10F59})"
    R"(\x{10F86}-\x{10F89}\x{113D4}-\x{113D5}\x{113D7}-\x{113D8}\x{1144B}-\x{1144F})"
    R"(\x{1145A}-\x{1145B}\x{1145D}\x{11660}-\x{1166C}\x{116B9}\x{1183B}\x{11944}-\x{11946})"
    R"(\x{119E2}\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C}\x{11A9E}-\x{11AA2}\x{11B00}-\x{11B09})"
    R"(\x{11BE1}\x{11C41}-\x{11C45}\x{11C70}-\x{11C71}\x{11EF7}-\x{11EF8}\x{11F43}-\x{11F4F})"
    R"(\x{11FFF}\x{12FF1}-\x{12FF2}\x{16D6D}-\x{16D6F}\x{16E97}-\x{16E9A}\x{16FE2}\x{1E5FF})"
    R"(\x{1E95E}-\x{1E95F}])[\p{P}$+<=>^`|~\x{166D}\x{111C9}])";

absl::Status At(const std::string& where, const absl::Status& status) {
  return {status.code(), absl::StrCat(where, ": ", status.message())};
}

absl::StatusOr<SplitBehavior> BehaviorFromJson(const Json& json, const std::string& where,
                                               const char* absent) {
  T2R_ASSIGN_OR_RETURN(
      const std::string name,
      StringField(json, "behavior", where,
                  absent == nullptr ? std::nullopt : std::optional<std::string>(absent)));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return InvalidAt(where, absl::StrCat("behavior \"", name, "\" is unknown"));
}

absl::Status AddPattern(const char* pattern, SplitBehavior behavior, bool invert, Steps* steps) {
  T2R_ASSIGN_OR_RETURN(Regex regex, Regex::CompilePcre(pattern));
  steps->push_back(SplitStep(std::move(regex), behavior, invert));
  return absl::OkStatus();
}

absl::Status AddByteLevel(const Json& json, const std::string& where, Steps* steps) {
  T2R_ASSIGN_OR_RETURN(const bool add_prefix_space,
                       BoolField(json, "add_prefix_space", where, true));
  T2R_ASSIGN_OR_RETURN(const bool use_regex, BoolField(json, "use_regex", where, true));
  T2R_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
  steps->push_back(ByteLevelStep(add_prefix_space, use_regex ? &regex : nullptr));
  return absl::OkStatus();
}

absl::Status AddSplit(const Json& json, const std::string& where, Steps* steps) {
  const Json* pattern = FindField(json, "pattern");
  if (pattern == nullptr) return InvalidAt(where, "pattern is missing");
  T2R_ASSIGN_OR_RETURN(Regex regex, PatternFromJson(*pattern, where + ".pattern"));
  T2R_ASSIGN_OR_RETURN(const SplitBehavior behavior, BehaviorFromJson(json, where, nullptr));
  T2R_ASSIGN_OR_RETURN(const bool invert, BoolField(json, "invert", where, false));
  steps->push_back(SplitStep(std::move(regex), behavior, invert));
  return absl::OkStatus();
}

absl::Status AddMetaspace(const Json& json, const std::string& where, Steps* steps) {
  T2R_ASSIGN_OR_RETURN(std::string replacement, StringField(json, "replacement", where));
  size_t first = 0;
  if (!replacement.empty()) NextCodePoint(replacement, &first);
  if (replacement.empty() || first != replacement.size()) {
    return InvalidAt(where, "replacement must be one character");
  }
  T2R_ASSIGN_OR_RETURN(const PrependScheme scheme, PrependSchemeFromJson(json, where));
  T2R_ASSIGN_OR_RETURN(const bool split, BoolField(json, "split", where, true));
  T2R_ASSIGN_OR_RETURN(auto step, MetaspaceStep(std::move(replacement), scheme, split));
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status AddSteps(const Json& json, const std::string& where, int nesting, Steps* steps);

absl::Status AddSequence(const Json& json, const std::string& where, int nesting, Steps* steps) {
  if (nesting >= kMaxNesting) {
    return InvalidAt(where, absl::StrCat("sequences are nested more than ", kMaxNesting, " deep"));
  }
  T2R_ASSIGN_OR_RETURN(const Json* parts, ArrayField(json, "pretokenizers", where));
  for (size_t i = 0; i < parts->size(); ++i) {
    T2R_RETURN_IF_ERROR(
        AddSteps((*parts)[i], absl::StrCat(where, ".pretokenizers[", i, "]"), nesting + 1, steps));
  }
  return absl::OkStatus();
}

absl::Status AddSteps(const Json& json, const std::string& where, int nesting, Steps* steps) {
  if (!json.is_object()) return InvalidAt(where, "must be an object");
  T2R_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  if (type == "Sequence") return AddSequence(json, where, nesting, steps);
  if (type == "ByteLevel") return AddByteLevel(json, where, steps);
  if (type == "Split") return AddSplit(json, where, steps);
  if (type == "Metaspace") return AddMetaspace(json, where, steps);
  if (type == "Whitespace") {
    return AddPattern(kRustWords, SplitBehavior::kRemoved, true, steps);
  }
  if (type == "WhitespaceSplit")
    return AddPattern(kRustSpace, SplitBehavior::kRemoved, false, steps);
  if (type == "Digits") {
    T2R_ASSIGN_OR_RETURN(const bool individual, BoolField(json, "individual_digits", where, false));
    return AddPattern(R"(\p{N})",
                      individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false,
                      steps);
  }
  if (type == "Punctuation") {
    T2R_ASSIGN_OR_RETURN(const SplitBehavior behavior, BehaviorFromJson(json, where, "Isolated"));
    return AddPattern(kRustPunctuation, behavior, false, steps);
  }
  return UnsupportedAt(where, absl::StrCat("type \"", type, "\""));
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const Json& json, const std::string& where) {
  PreTokenizer result;
  if (json.is_null()) return result;
  T2R_RETURN_IF_ERROR(AddSteps(json, where, 0, &result.steps_));
  return result;
}

absl::StatusOr<PreTokenizer> PreTokenizer::Gpt2(bool add_prefix_space) {
  T2R_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
  PreTokenizer result;
  result.steps_.push_back(ByteLevelStep(add_prefix_space, &regex));
  return result;
}

absl::StatusOr<PrependScheme> PrependSchemeFromJson(const Json& json, const std::string& where) {
  T2R_ASSIGN_OR_RETURN(const std::string name,
                       StringField(json, "prepend_scheme", where, "always"));
  T2R_ASSIGN_OR_RETURN(const bool prefix, BoolField(json, "add_prefix_space", where, true));
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never" || (name == "always" && !prefix)) return PrependScheme::kNever;
  if (name == "always") return PrependScheme::kAlways;
  return InvalidAt(where, absl::StrCat("prepend_scheme \"", name, "\" is unknown"));
}

absl::StatusOr<Regex> PatternFromJson(const Json& json, const std::string& where) {
  if (!json.is_object()) return InvalidAt(where, "must be an object");
  const bool literal = FindField(json, "String") != nullptr;
  T2R_ASSIGN_OR_RETURN(const std::string text,
                       StringField(json, literal ? "String" : "Regex", where));
  if (text.empty()) return UnsupportedAt(where, "an empty pattern");
  absl::StatusOr<Regex> regex = literal ? Regex::CompileLiteral(text) : Regex::Compile(text);
  if (!regex.ok()) return At(where, regex.status());
  return regex;
}

}  // namespace t2r

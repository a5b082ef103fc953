#include "engine/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace t2r {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;

// Oniguruma's classes, for use inside [].
constexpr char kSpace[] = "\\t-\\r \\x{85}\\p{Z}";
constexpr char kWord[] = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}";

absl::Status Refuse(const char* what) {
  return absl::UnimplementedError(
      absl::StrCat("the regular expression uses ", what, ", which is not supported"));
}

// One escape outside or inside a class; appends its translation.
absl::Status TranslateEscape(char c, bool in_class, std::string* out) {
  switch (c) {
    case 's':
      absl::StrAppend(out, in_class ? "" : "[", kSpace, in_class ? "" : "]");
      return absl::OkStatus();
    case 'w':
      absl::StrAppend(out, in_class ? "" : "[", kWord, in_class ? "" : "]");
      return absl::OkStatus();
    case 'S':
    case 'W':
      if (in_class) break;  // as PCRE2 has it: differs in U+180E (\S), ½ and marks (\W)
      absl::StrAppend(out, "[^", c == 'S' ? kSpace : kWord, "]");
      return absl::OkStatus();
    case 'h':
    case 'H':
      return Refuse("\\h");
    case 'R':
    case 'X':
    case 'K':
    case 'G':
    case 'C':
    case 'g':
    case 'k':
    case 'Q':
      return Refuse("one of \\R, \\X, \\K, \\G, \\C, \\g, \\k, \\Q");
    default:
      break;
  }
  out->push_back('\\');
  out->push_back(c);
  return absl::OkStatus();
}

absl::StatusOr<std::string> TranslateFromOniguruma(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  size_t class_begin = 0;
  const auto starts = [&](size_t i, std::string_view what) {
    return i <= pattern.size() && pattern.substr(i, what.size()) == what;
  };
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      if (starts(i + 2, "{") && std::strchr("pPx", pattern[i + 1]) != nullptr) {
        const size_t close = pattern.find('}', i);
        if (close == std::string_view::npos) return Refuse("{ without }");
        out.append(pattern.substr(i, close + 1 - i));
        i = close;
        continue;
      }
      if (absl::Status status = TranslateEscape(pattern[++i], in_class, &out); !status.ok()) {
        return status;
      }
      continue;
    }
    if (in_class) {
      if (starts(i, "&&")) return Refuse("a class intersection (&&)");
      if (c == '[') {
        const size_t close = starts(i, "[:") ? pattern.find(":]", i) : std::string_view::npos;
        if (close == std::string_view::npos) return Refuse("a class inside a class");
        out.append(pattern.substr(i, close + 2 - i));
        i = close + 1;
        continue;
      }
      if (c == ']' && i > class_begin) in_class = false;
    } else if (c == '[') {
      in_class = true;
      class_begin = i + (starts(i + 1, "^") ? 2 : 1);  // a ] right here would be literal
    } else if (starts(i, "}+")) {
      return Refuse("{n,m}+");
    } else if (starts(i, "(?")) {
      const size_t end = pattern.find_first_of(":)=!<>", i);
      const std::string_view flags =
          end == std::string_view::npos ? pattern.substr(i) : pattern.substr(i, end - i);
      if (flags.find('m') != std::string_view::npos) return Refuse("(?m)");
    } else if (starts(i, "(*")) {
      return Refuse("a verb, (*");
    }
    out.push_back(c);
  }
  return out;
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

std::string MessageOf(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0) return "unknown error";
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  auto translated = TranslateFromOniguruma(pattern);
  if (!translated.ok()) return translated.status();
  return CompileWith(*translated, PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
}

absl::StatusOr<Regex> Regex::CompileLiteral(std::string_view text) {
  return CompileWith(text, PCRE2_LITERAL);
}

absl::StatusOr<Regex> Regex::CompileWith(std::string_view pattern, uint32_t options) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the pattern has ", pattern.size(),
                                                   " bytes; the limit is ", kMaxPatternBytes));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | options, &error, &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regular expression does not compile: ", MessageOf(error), " at byte ",
                     offset, " of ", absl::string_view(pattern.data(), pattern.size())));
  }
  // Without JIT support matching is slower and gives the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  Regex regex;
  regex.code_ = std::shared_ptr<pcre2_code>(code, pcre2_code_free);
  return regex;
}

absl::StatusOr<std::vector<Match>> Regex::FindAll(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(
      pcre2_match_data_create(1, nullptr));
  std::vector<Match> matches;
  size_t position = 0;
  uint32_t options = PCRE2_NO_UTF_CHECK;  // or every call would check the whole rest
  while (position <= text.size()) {
    const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                   text.size(), position, options, data.get(), nullptr);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
      options |= PCRE2_NO_JIT;
      continue;
    }
    if (result < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("matching the tokenizer's regular expression failed: ", MessageOf(result)));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    if (bounds[1] > bounds[0]) {
      matches.push_back({bounds[0], bounds[1]});
      position = bounds[1];
    } else {  // an empty match: on to the next code point
      position = bounds[1] + 1;
      while (position < text.size() && (static_cast<uint8_t>(text[position]) & 0xC0) == 0x80) {
        ++position;
      }
    }
  }
  return matches;
}

}  // namespace t2r

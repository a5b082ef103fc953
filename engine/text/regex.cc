#include "engine/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/text/oniguruma.h"

namespace t2r {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 14;

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
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the pattern has ", pattern.size(),
                                                   " bytes; the limit is ", kMaxPatternBytes));
  }
  auto translated = FromOniguruma(pattern);
  if (!translated.ok()) return translated.status();
  return CompilePcre(*translated);
}

absl::StatusOr<Regex> Regex::CompilePcre(std::string_view pattern) {
  return CompileWith(pattern, PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
}

absl::StatusOr<Regex> Regex::CompileLiteral(std::string_view text) {
  return CompileWith(text, PCRE2_LITERAL);
}

absl::StatusOr<Regex> Regex::CompileWith(std::string_view pattern, uint32_t options) {
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

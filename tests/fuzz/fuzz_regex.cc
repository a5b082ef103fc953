// Any bytes as a pattern and a text, separated by a zero byte: what compiles finds ordered matches
// that do not overlap, or says that it backtracks too much.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/text/regex.h"
#include "engine/text/utf8.h"

std::vector<std::string> FuzzSeeds() {
  const auto seed = [](const std::string& pattern, const std::string& text) {
    return pattern + '\0' + text;
  };
  return {seed("(?i:'s|'t)|[^\\r\\n\\p{L}]?\\p{L}+|\\s+(?!\\S)", "it's caf\xC3\xA9  "),
          seed("[a-z&&[^aeiou]]+", "hello"), seed("[^(\\s|[.,])]{,3}", "one, two"),
          seed("\\b\\w+\\h\\B", "abc 0f"), seed("[[:alpha:][:^punct:]\\S]", "a.")};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string text = zero == std::string::npos ? "" : input.substr(zero + 1);
  const auto regex = t2r::Regex::Compile(input.substr(0, zero));
  if (!regex.ok()) {
    if (regex.status().message().empty()) std::abort();
    return 0;
  }
  if (t2r::FindInvalidUtf8(text) != std::string_view::npos) return 0;
  const auto matches = regex->FindAll(text);
  if (!matches.ok()) return 0;
  size_t end = 0;
  for (const t2r::Match& match : *matches) {
    if (match.begin < end || match.end <= match.begin || match.end > text.size()) std::abort();
    if (t2r::FindInvalidUtf8(text.substr(match.begin, match.end - match.begin)) !=
        std::string::npos) {
      std::abort();
    }
    end = match.end;
  }
  return 0;
}

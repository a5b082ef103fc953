// Oniguruma's regular expressions, which tokenizer files are written in, as PCRE2's.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace t2r {

// The pattern as PCRE2 (with UTF, UCP and MULTILINE) has to read it to match what Oniguruma with
// Ruby's syntax and UTF-8 matches: \w, \s, \d, \h, \b, POSIX classes and properties as Oniguruma
// defines them, classes inside classes, &&, (?m). UNIMPLEMENTED, by name, for what cannot be said
// in PCRE2; what is wrong in either language is left for PCRE2 to find.
absl::StatusOr<std::string> FromOniguruma(std::string_view pattern);

}  // namespace t2r

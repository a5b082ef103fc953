// Regular expressions of tokenizer files, on PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace t2r {

// Where a pattern was found, in bytes: [begin, end).
struct Match {
  size_t begin;
  size_t end;
};

// A compiled pattern over UTF-8 with Unicode classes. Immutable; safe to use from many threads.
class Regex {
 public:
  // A pattern of Oniguruma's (engine/text/oniguruma.h), at most 16 KiB. UNIMPLEMENTED for what
  // cannot be matched as there, INVALID_ARGUMENT for what does not compile.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  // A pattern of PCRE2's own.
  static absl::StatusOr<Regex> CompilePcre(std::string_view pattern);
  // Matches the text itself.
  static absl::StatusOr<Regex> CompileLiteral(std::string_view text);

  // All matches from left to right, not overlapping. `text` must be valid UTF-8. RESOURCE_EXHAUSTED
  // when the pattern backtracks beyond the library's limit.
  absl::StatusOr<std::vector<Match>> FindAll(std::string_view text) const;

 private:
  Regex() = default;
  static absl::StatusOr<Regex> CompileWith(std::string_view pattern, uint32_t options);

  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace t2r

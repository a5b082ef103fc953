// Cuts a text into the words that the model then encodes one by one.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/regex.h"

namespace t2r {

// What happens to the places where a pattern matches; HF's SplitDelimiterBehavior.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// The pieces [begin, end) of a text of `size` bytes; none is empty. invert: what lies between the
// matches counts as matched.
std::vector<Match> SplitAt(const std::vector<Match>& matches, size_t size, SplitBehavior behavior,
                           bool invert);

struct Word {
  std::string text;
  bool at_begin = false;  // nothing of the input comes before it
};

// A chain of steps, each of which rewrites and cuts the words of the one before. Immutable; safe to
// use from many threads.
class PreTokenizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    // Appends what becomes of `word`. RESOURCE_EXHAUSTED if a pattern backtracks too much.
    virtual absl::Status Apply(Word word, std::vector<Word>* out) const = 0;
  };

  // Leaves a text whole.
  PreTokenizer() = default;
  // From tokenizer.json's `pre_tokenizer` (which may be null); `where` names it in errors.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& json,
                                               const std::string& where);
  // GPT-2's.
  static absl::StatusOr<PreTokenizer> Gpt2(bool add_prefix_space);

  // `at_begin`: the text begins the whole input.
  absl::StatusOr<std::vector<Word>> Split(std::string text, bool at_begin) const;

 private:
  std::vector<std::shared_ptr<const Step>> steps_;
};

// The steps. `pattern` is matched as it stands.
std::shared_ptr<const PreTokenizer::Step> SplitStep(Regex pattern, SplitBehavior behavior,
                                                    bool invert);
// Puts a space before a word that has none if add_prefix_space, then writes its bytes as
// characters.
std::shared_ptr<const PreTokenizer::Step> ByteLevelStep(bool add_prefix_space, Regex* pattern);
enum class PrependScheme { kAlways, kFirst, kNever };
// Writes spaces as `replacement`, puts one in front as the scheme says, cuts before each if
// `split`.
absl::StatusOr<std::shared_ptr<const PreTokenizer::Step>> MetaspaceStep(std::string replacement,
                                                                        PrependScheme scheme,
                                                                        bool split);
// The scheme of a Metaspace pre-tokenizer or decoder, old spelling (add_prefix_space) and new.
absl::StatusOr<PrependScheme> PrependSchemeFromJson(const nlohmann::json& json,
                                                    const std::string& where);

// A pattern of tokenizer.json: {"String": …} or {"Regex": …}.
absl::StatusOr<Regex> PatternFromJson(const nlohmann::json& json, const std::string& where);

}  // namespace t2r

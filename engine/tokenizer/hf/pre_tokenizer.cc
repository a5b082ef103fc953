#include "engine/tokenizer/hf/pre_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/byte_level.h"

namespace t2r {
namespace {

struct Part {
  Match range;
  bool matched;
};

std::vector<Part> PartsOf(const std::vector<Match>& matches, size_t size, bool invert) {
  std::vector<Part> parts;
  parts.reserve(2 * matches.size() + 1);
  size_t end = 0;
  for (const Match& match : matches) {
    if (match.begin > end) parts.push_back({{end, match.begin}, invert});
    parts.push_back({match, !invert});
    end = match.end;
  }
  if (size > end) parts.push_back({{end, size}, invert});
  return parts;
}

void CutWord(const Word& word, const std::vector<Match>& ranges, std::vector<Word>* out) {
  for (const Match& range : ranges) {
    out->push_back({word.text.substr(range.begin, range.end - range.begin),
                    word.at_begin && range.begin == 0});
  }
}

class Splitter : public PreTokenizer::Step {
 public:
  Splitter(Regex pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(Word word, std::vector<Word>* out) const override {
    T2R_ASSIGN_OR_RETURN(const std::vector<Match> matches, pattern_.FindAll(word.text));
    CutWord(word, SplitAt(matches, word.text.size(), behavior_, invert_), out);
    return absl::OkStatus();
  }

 private:
  Regex pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer::Step {
 public:
  ByteLevel(bool add_prefix_space, std::optional<Regex> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

  absl::Status Apply(Word word, std::vector<Word>* out) const override {
    if (add_prefix_space_ && !word.text.starts_with(' ')) word.text.insert(0, 1, ' ');
    if (!pattern_.has_value()) {
      out->push_back({BytesToCharacters(word.text), word.at_begin});
      return absl::OkStatus();
    }
    const size_t first = out->size();
    T2R_ASSIGN_OR_RETURN(const std::vector<Match> matches, pattern_->FindAll(word.text));
    CutWord(word, SplitAt(matches, word.text.size(), SplitBehavior::kIsolated, false), out);
    for (size_t i = first; i < out->size(); ++i) (*out)[i].text = BytesToCharacters((*out)[i].text);
    return absl::OkStatus();
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> pattern_;
};

class Metaspace : public PreTokenizer::Step {
 public:
  Metaspace(std::string replacement, Regex pattern, PrependScheme scheme, bool split)
      : replacement_(std::move(replacement)),
        pattern_(std::move(pattern)),
        scheme_(scheme),
        split_(split) {}

  absl::Status Apply(Word word, std::vector<Word>* out) const override {
    std::string text;
    text.reserve(word.text.size() + word.text.size() / 2);
    for (const char c : word.text) {
      if (c == ' ') {
        text += replacement_;
      } else {
        text += c;
      }
    }
    const bool prepend =
        scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && word.at_begin);
    if (prepend && !text.starts_with(replacement_)) text.insert(0, replacement_);
    word.text = std::move(text);
    if (!split_) {
      out->push_back(std::move(word));
      return absl::OkStatus();
    }
    T2R_ASSIGN_OR_RETURN(const std::vector<Match> matches, pattern_.FindAll(word.text));
    CutWord(word, SplitAt(matches, word.text.size(), SplitBehavior::kMergedWithNext, false), out);
    return absl::OkStatus();
  }

 private:
  std::string replacement_;
  Regex pattern_;
  PrependScheme scheme_;
  bool split_;
};

}  // namespace

std::vector<Match> SplitAt(const std::vector<Match>& matches, size_t size, SplitBehavior behavior,
                           bool invert) {
  std::vector<Part> parts = PartsOf(matches, size, invert);
  std::vector<Match> pieces;
  pieces.reserve(parts.size());
  if (behavior == SplitBehavior::kMergedWithNext) {
    // As merging with the previous one, from the end.
    bool matched_before = false;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      if (part->matched && !matched_before && !pieces.empty()) {
        pieces.back().begin = part->range.begin;
      } else {
        pieces.push_back(part->range);
      }
      matched_before = part->matched;
    }
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }
  bool matched_before = false;
  for (const Part& part : parts) {
    const bool merge =
        !pieces.empty() &&
        ((behavior == SplitBehavior::kMergedWithPrevious && part.matched && !matched_before) ||
         (behavior == SplitBehavior::kContiguous && part.matched == matched_before));
    if (merge) {
      pieces.back().end = part.range.end;
    } else if (!(behavior == SplitBehavior::kRemoved && part.matched)) {
      pieces.push_back(part.range);
    }
    matched_before = part.matched;
  }
  return pieces;
}

absl::StatusOr<std::vector<Word>> PreTokenizer::Split(std::string text, bool at_begin) const {
  std::vector<Word> words;
  if (text.empty()) return words;
  words.push_back({std::move(text), at_begin});
  for (const auto& step : steps_) {
    std::vector<Word> next;
    next.reserve(words.size());
    for (Word& word : words) {
      T2R_RETURN_IF_ERROR(step->Apply(std::move(word), &next));
    }
    words = std::move(next);
  }
  return words;
}

std::shared_ptr<const PreTokenizer::Step> SplitStep(Regex pattern, SplitBehavior behavior,
                                                    bool invert) {
  return std::make_shared<Splitter>(std::move(pattern), behavior, invert);
}

std::shared_ptr<const PreTokenizer::Step> ByteLevelStep(bool add_prefix_space, Regex* pattern) {
  return std::make_shared<ByteLevel>(
      add_prefix_space, pattern == nullptr ? std::nullopt : std::optional<Regex>(*pattern));
}

absl::StatusOr<std::shared_ptr<const PreTokenizer::Step>> MetaspaceStep(std::string replacement,
                                                                        PrependScheme scheme,
                                                                        bool split) {
  T2R_ASSIGN_OR_RETURN(Regex pattern, Regex::CompileLiteral(replacement));
  return std::make_shared<Metaspace>(std::move(replacement), std::move(pattern), scheme, split);
}

}  // namespace t2r

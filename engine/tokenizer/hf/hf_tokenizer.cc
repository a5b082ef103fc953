#include "engine/tokenizer/hf/hf_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/status_macros.h"
#include "engine/text/utf8.h"

namespace t2r {

absl::Status CheckUtf8(const std::string& text) {
  const size_t offset = FindInvalidUtf8(text);
  if (offset == std::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the text is not valid UTF-8 at byte ", offset, "; send UTF-8 or token ids"));
}

absl::StatusOr<std::vector<int32_t>> HfTokenizer::Encode(const std::string& text,
                                                         bool add_special_tokens) const {
  T2R_RETURN_IF_ERROR(CheckUtf8(text));
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = parts_.prefix;
  for (const auto& part : parts_.added.Split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    T2R_ASSIGN_OR_RETURN(
        const std::string normalized,
        parts_.normalizer.Apply(text.substr(part.range.begin, part.range.end - part.range.begin)));
    for (const auto& inner : parts_.normalized_added.Split(normalized)) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
        continue;
      }
      const bool at_begin = part.range.begin == 0 && inner.range.begin == 0;
      T2R_RETURN_IF_ERROR(
          EncodeStretch(normalized.substr(inner.range.begin, inner.range.end - inner.range.begin),
                        at_begin, &ids));
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
  return ids;
}

absl::Status HfTokenizer::EncodeStretch(std::string text, bool at_begin,
                                        std::vector<int32_t>* ids) const {
  T2R_ASSIGN_OR_RETURN(const std::vector<Word> words,
                       parts_.pre_tokenizer.Split(std::move(text), at_begin));
  for (const Word& word : words) parts_.model.Encode(word.text, ids);
  return absl::OkStatus();
}

}  // namespace t2r

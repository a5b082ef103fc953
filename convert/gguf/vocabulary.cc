#include "convert/gguf/vocabulary.h"

#include <algorithm>

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"
#include "convert/gguf/metadata.h"
#include "engine/text/utf8.h"

namespace t2r::convert {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";
// Of a token whose cuts are looked up: SentencePiece's own limit is far below.
constexpr size_t kMaxCutBytes = 1024;

[[noreturn]] void FailAt(std::string_view key, size_t index, const std::string& problem) {
  throw ConvertError(std::string(key) + "[" + std::to_string(index) + "] " + problem);
}

void CheckCount(std::string_view key, size_t count, size_t tokens) {
  if (count != tokens) {
    throw ConvertError(std::string(key) + " has " + std::to_string(count) + " elements, and " +
                       std::string(kTokens) + " " + std::to_string(tokens));
  }
}

}  // namespace

GgufVocabulary::GgufVocabulary(const GgufFile& file, int64_t limit) {
  const GgufMetadata metadata(file);
  tokens_ = metadata.Strings(kTokens);
  if (tokens_.size() > static_cast<uint64_t>(limit)) {
    throw ConvertError(std::string(kTokens) + " has " + std::to_string(tokens_.size()) +
                       " elements, more than the " + std::to_string(limit) +
                       " rows of token_embd.weight");
  }
  ids_.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].empty()) FailAt(kTokens, i, "is empty");
    if (FindInvalidUtf8(tokens_[i]) != std::string_view::npos) {
      FailAt(kTokens, i, "is not valid UTF-8: " + Printable(tokens_[i]));
    }
    const auto [other, inserted] = ids_.emplace(tokens_[i], static_cast<int32_t>(i));
    if (!inserted) {
      FailAt(kTokens, i,
             "repeats element " + std::to_string(other->second) + ": " + Printable(tokens_[i]));
    }
  }
  types_.assign(tokens_.size(), GgufTokenType::kNormal);
  if (!metadata.Has(kTypes)) return;
  const std::vector<int64_t> types = metadata.Integers(kTypes);
  CheckCount(kTypes, types.size(), tokens_.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 1 || types[i] > 6) {
      FailAt(kTypes, i, "is " + std::to_string(types[i]) + "; it must be from 1 to 6");
    }
    types_[i] = static_cast<GgufTokenType>(types[i]);
  }
}

bool GgufVocabulary::IsPadding(size_t id) const {
  return types_[id] == GgufTokenType::kUnused && tokens_[id] == "[PAD" + std::to_string(id) + "]";
}

std::optional<int32_t> GgufVocabulary::Find(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<GgufMerge> ReadGgufMerges(const GgufFile& file, const GgufVocabulary& vocabulary) {
  const std::vector<std::string_view> texts = GgufMetadata(file).Strings(kMerges);
  std::vector<GgufMerge> merges;
  merges.reserve(texts.size());
  std::string merged;
  for (size_t i = 0; i < texts.size(); ++i) {
    const size_t space = texts[i].find(' ');
    if (space == std::string_view::npos ||
        texts[i].find(' ', space + 1) != std::string_view::npos) {
      FailAt(kMerges, i, "is not two tokens with a space between them: " + Printable(texts[i]));
    }
    const GgufMerge merge(texts[i].substr(0, space), texts[i].substr(space + 1));
    merged.assign(merge.first).append(merge.second);
    for (const std::string_view token : {merge.first, merge.second, std::string_view(merged)}) {
      if (!vocabulary.Find(token).has_value()) {
        FailAt(kMerges, i, "needs " + Printable(token) + ", which is not among the tokens");
      }
    }
    merges.push_back(merge);
  }
  return merges;
}

std::vector<GgufMerge> MergesFromScores(const GgufFile& file, const GgufVocabulary& vocabulary) {
  const std::vector<float> scores = GgufMetadata(file).Floats(kScores);
  CheckCount(kScores, scores.size(), vocabulary.size());
  std::vector<size_t> order;
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) == GgufTokenType::kNormal) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  const auto is_normal = [&](std::string_view token) {
    const auto id = vocabulary.Find(token);
    return id.has_value() && vocabulary.type(static_cast<size_t>(*id)) == GgufTokenType::kNormal &&
           token.find(' ') == std::string_view::npos;  // merges are written with a space
  };
  std::vector<GgufMerge> merges;
  for (const size_t id : order) {
    const std::string_view token = vocabulary.token(id);
    if (token.size() > kMaxCutBytes) {
      FailAt(kTokens, id,
             "has " + std::to_string(token.size()) + " bytes; at most " +
                 std::to_string(kMaxCutBytes));
    }
    for (size_t cut = token.size() - 1; cut > 0; --cut) {
      const GgufMerge merge(token.substr(0, cut), token.substr(cut));
      if (is_normal(merge.first) && is_normal(merge.second)) merges.push_back(merge);
    }
  }
  return merges;
}

}  // namespace t2r::convert

#include "engine/tokenizer/hf/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/text/utf8.h"

namespace t2r {
namespace {

bool IsSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t PreviousCodePoint(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

size_t SkipSpaces(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t next = position;
    if (!IsSpace(NextCodePoint(text, &next))) break;
    position = next;
  }
  return position;
}

size_t SkipSpacesBack(std::string_view text, size_t position, size_t limit) {
  while (position > limit) {
    const size_t previous = PreviousCodePoint(text, position);
    size_t next = previous;
    if (!IsSpace(NextCodePoint(text, &next))) break;
    position = previous;
  }
  return position;
}

bool IsWordCharacter(std::string_view character) {
  // Rust's \w.
  static const Regex* const word =
      new Regex(*Regex::CompilePcre("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]"));
  const auto matches = word->FindAll(character);
  return matches.ok() && !matches->empty();
}

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    const size_t previous = PreviousCodePoint(text, begin);
    if (IsWordCharacter(text.substr(previous, begin - previous))) return false;
  }
  if (end < text.size()) {
    size_t next = end;
    NextCodePoint(text, &next);
    if (IsWordCharacter(text.substr(end, next - end))) return false;
  }
  return true;
}

}  // namespace

void NumberAddedTokens(const std::function<std::optional<int32_t>(const std::string&)>& find,
                       int32_t model_size, std::vector<AddedToken>* tokens, size_t numbered) {
  absl::flat_hash_set<std::string> known;
  int32_t next = model_size;
  size_t kept = 0;
  for (size_t i = 0; i < tokens->size(); ++i) {
    AddedToken& token = (*tokens)[i];
    if (i >= numbered) {
      if (token.content.empty() || known.contains(token.content)) continue;
      token.id = find(token.content).value_or(next);
    }
    known.insert(token.content);
    next = std::max(next, token.id + 1);
    if (kept != i) (*tokens)[kept] = std::move(token);
    ++kept;
  }
  tokens->resize(kept);
}

AddedTokenFinder::AddedTokenFinder() : token_at_(1, -1) {}

void AddedTokenFinder::Add(const AddedToken& token, const std::string& pattern) {
  if (pattern.empty()) return;
  uint32_t node = 0;
  for (const char c : pattern) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [edge, inserted] = edges_.emplace(key, static_cast<uint32_t>(token_at_.size()));
    if (inserted) token_at_.push_back(-1);
    node = edge->second;
  }
  begins_[static_cast<uint8_t>(pattern[0])] = true;
  if (token_at_[node] >= 0) return;  // the first of equal ones
  token_at_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

int32_t AddedTokenFinder::LongestAt(std::string_view text, size_t position, size_t* end) const {
  int32_t longest = -1;
  uint32_t node = 0;
  for (size_t i = position; i < text.size(); ++i) {
    const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_[node] >= 0) {
      longest = token_at_[node];
      *end = i + 1;
    }
  }
  return longest;
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::Split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0;  // everything before is in parts
  for (size_t i = 0; i < text.size();) {
    size_t end = 0;
    const int32_t index = begins_[static_cast<uint8_t>(text[i])] ? LongestAt(text, i, &end) : -1;
    if (index < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = i;
    i = end;  // a token that is refused below still hides those inside it
    if (token.single_word && !StandsAlone(text, begin, end)) continue;
    if (token.lstrip) begin = SkipSpacesBack(text, begin, done);
    if (token.rstrip) end = SkipSpaces(text, end);
    i = end;
    if (begin > done) parts.push_back({{done, begin}, -1});
    parts.push_back({{begin, end}, token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({{done, text.size()}, -1});
  return parts;
}

}  // namespace t2r

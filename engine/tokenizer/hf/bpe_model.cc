#include "engine/tokenizer/hf/bpe_model.h"

#include <cstdio>
#include <queue>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/text/utf8.h"

namespace t2r {
namespace {

constexpr uint32_t kLowCharacters = 0x200;  // covers byte-level's alphabet

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::Status CheckIds(const BpeModel::Vocabulary& vocabulary, const std::string& file) {
  absl::flat_hash_map<int32_t, absl::string_view> tokens;
  tokens.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary) {
    if (id < 0 || id >= kMaxTokenIds) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": vocab: the id ", id, " of \"", token,
                                                     "\" is not in [0, ", kMaxTokenIds, ")"));
    }
    const auto [other, inserted] = tokens.emplace(id, token);
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": vocab: the id ", id,
                                                     " is given to both \"", other->second,
                                                     "\" and \"", token, "\""));
    }
  }
  return absl::OkStatus();
}

// A word as a doubly linked list of symbols, and the merges that are possible in it.
struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;  // −1: none. A merged-away symbol has id −1.
};

struct Candidate {
  int32_t rank;
  int32_t left;  // index of the left symbol
  // The lowest rank first, then the leftmost.
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(
    Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
    Options options, const std::string& file) {
  if (absl::Status status = CheckIds(vocabulary, file); !status.ok()) return status;
  BpeModel model;
  model.vocabulary_ = std::move(vocabulary);
  model.options_ = std::move(options);
  if (model.options_.unknown.has_value()) {
    model.unknown_ = model.Find(*model.options_.unknown);
    if (!model.unknown_.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": unk_token \"", *model.options_.unknown, "\" is not in the vocabulary"));
    }
  }
  model.merges_.reserve(merges.size());
  std::string merged;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    merged.assign(left).append(right);
    const auto left_id = model.Find(left);
    const auto right_id = model.Find(right);
    const auto merged_id = model.Find(merged);
    if (!left_id || !right_id || !merged_id) {
      const std::string& missing = !left_id ? left : !right_id ? right : merged;
      return absl::InvalidArgumentError(absl::StrCat(file, ": merges[", rank, "]: the token \"",
                                                     missing, "\" is not in the vocabulary"));
    }
    // Of a pair given twice HF keeps the later rank.
    model.merges_[Key(*left_id, *right_id)] = {static_cast<int32_t>(rank), *merged_id};
  }
  model.low_characters_.resize(kLowCharacters, -1);
  for (uint32_t c = 0; c < kLowCharacters; ++c) {
    std::string token;
    AppendCodePoint(c, &token);
    model.low_characters_[c] = model.Find(token).value_or(-1);
  }
  model.byte_tokens_.resize(256, -1);
  for (int byte = 0; byte < 256; ++byte) {
    char token[8];
    std::snprintf(token, sizeof(token), "<0x%02X>", static_cast<unsigned>(byte));
    model.byte_tokens_[byte] = model.Find(token).value_or(-1);
  }
  return model;
}

std::optional<int32_t> BpeModel::Find(std::string_view token) const {
  const auto it = vocabulary_.find(View(token));
  if (it == vocabulary_.end()) return std::nullopt;
  return it->second;
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find(Key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeModel::SplitSymbols(std::string_view word, std::vector<int32_t>* symbols) const {
  bool after_unknown = false;
  for (size_t i = 0; i < word.size();) {
    const size_t begin = i;
    const uint32_t c = NextCodePoint(word, &i);
    const std::string_view character = word.substr(begin, i - begin);
    const int32_t id = c < kLowCharacters ? low_characters_[c] : Find(character).value_or(-1);
    if (id >= 0) {
      symbols->push_back(id);
      after_unknown = false;
      continue;
    }
    if (options_.byte_fallback) {
      const size_t size = symbols->size();
      for (const char byte : character) {
        const int32_t token = byte_tokens_[static_cast<uint8_t>(byte)];
        if (token < 0) break;
        symbols->push_back(token);
      }
      if (symbols->size() == size + character.size()) {
        after_unknown = false;
        continue;
      }
      symbols->resize(size);
    }
    if (unknown_.has_value() && !(options_.fuse_unknown && after_unknown)) {
      symbols->push_back(*unknown_);
      after_unknown = true;
    }
  }
}

void BpeModel::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (options_.ignore_merges) {
    if (const auto id = Find(word)) {
      ids->push_back(*id);
      return;
    }
  }
  std::vector<int32_t> start;
  SplitSymbols(word, &start);
  const auto count = static_cast<int32_t>(start.size());
  std::vector<Symbol> symbols(count);
  for (int32_t i = 0; i < count; ++i) symbols[i] = {start[i], i - 1, i + 1 < count ? i + 1 : -1};

  std::vector<Candidate> storage;
  storage.reserve(count);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>{},
                                                                               std::move(storage));
  const auto consider = [&](int32_t left) {
    const int32_t right = symbols[left].next;
    if (right < 0) return;
    if (const Merge* merge = FindMerge(symbols[left].id, symbols[right].id)) {
      queue.push({merge->rank, left});
    }
  };
  for (int32_t i = 0; i < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.left];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->rank != top.rank) continue;  // the pair is gone
    left.id = merge->id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.left;
    if (left.previous >= 0) consider(left.previous);
    consider(top.left);
  }
  for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace t2r

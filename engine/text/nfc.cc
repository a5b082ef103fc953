#include "engine/text/nfc.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/text/unicode_tables.h"
#include "engine/text/utf8.h"

namespace t2r {
namespace {

// No code point below this decomposes under composition or combines.
constexpr uint32_t kFirstCombining = 0x300;

// Hangul (Unicode Standard, 3.12).
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

struct Symbol {
  uint32_t code_point;
  uint32_t combining_class;
};

uint32_t CombiningClassOf(uint32_t c) {
  const auto ranges = CombiningClasses();
  const auto after = std::upper_bound(
      ranges.begin(), ranges.end(), c,
      [](uint32_t value, const CombiningClassRange& range) { return value < range.first; });
  if (after == ranges.begin()) return 0;
  const CombiningClassRange& range = *(after - 1);
  return c <= range.last ? range.combining_class : 0;
}

const CanonicalDecomposition* FindDecomposition(uint32_t c) {
  const auto all = CanonicalDecompositions();
  const auto it = std::lower_bound(
      all.begin(), all.end(), c,
      [](const CanonicalDecomposition& entry, uint32_t value) { return entry.code_point < value; });
  return it != all.end() && it->code_point == c ? &*it : nullptr;
}

// Appends c's full decomposition.
void Decompose(uint32_t c, std::vector<Symbol>* out) {
  if (c - kSyllables < kSyllableCount) {
    const uint32_t index = c - kSyllables;
    out->push_back({kLeads + index / (kVowelCount * kTrailCount), 0});
    out->push_back({kVowels + index / kTrailCount % kVowelCount, 0});
    if (index % kTrailCount != 0) out->push_back({kTrails + index % kTrailCount, 0});
    return;
  }
  if (const CanonicalDecomposition* entry = FindDecomposition(c)) {
    Decompose(entry->first, out);
    if (entry->second != 0) Decompose(entry->second, out);
    return;
  }
  out->push_back({c, CombiningClassOf(c)});
}

// 0 if the two do not compose.
uint32_t Compose(uint32_t first, uint32_t second) {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
  }
  const uint32_t syllable = first - kSyllables;
  if (syllable < kSyllableCount && syllable % kTrailCount == 0 && second > kTrails &&
      second < kTrails + kTrailCount) {
    return first + (second - kTrails);
  }
  static const auto* const pairs = [] {
    auto* map = new absl::flat_hash_map<uint64_t, uint32_t>();
    for (const CanonicalDecomposition& entry : CanonicalDecompositions()) {
      if (entry.composes != 0 && entry.second != 0) {
        map->emplace(static_cast<uint64_t>(entry.first) << 32 | entry.second, entry.code_point);
      }
    }
    return map;
  }();
  const auto it = pairs->find(static_cast<uint64_t>(first) << 32 | second);
  return it == pairs->end() ? 0 : it->second;
}

// Canonical Ordering: sorts each run of combining marks by class.
void Order(std::vector<Symbol>* symbols) {
  for (auto begin = symbols->begin(); begin != symbols->end();) {
    if (begin->combining_class == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, symbols->end(),
                                  [](const Symbol& symbol) { return symbol.combining_class == 0; });
    std::stable_sort(begin, end, [](const Symbol& a, const Symbol& b) {
      return a.combining_class < b.combining_class;
    });
    begin = end;
  }
}

// Canonical Composition, in place.
void ComposeAll(std::vector<Symbol>* symbols) {
  size_t size = 0;
  size_t starter = SIZE_MAX;
  for (size_t i = 0; i < symbols->size(); ++i) {
    const Symbol symbol = (*symbols)[i];
    if (starter != SIZE_MAX) {
      // Blocked if what stands between has the same class or a higher one, or is a starter.
      const bool adjacent = size == starter + 1;
      const bool blocked =
          !adjacent && (*symbols)[size - 1].combining_class >= symbol.combining_class;
      const uint32_t composed =
          blocked ? 0 : Compose((*symbols)[starter].code_point, symbol.code_point);
      if (composed != 0) {
        (*symbols)[starter].code_point = composed;
        continue;
      }
    }
    if (symbol.combining_class == 0) starter = size;
    (*symbols)[size++] = symbol;
  }
  symbols->resize(size);
}

}  // namespace

std::string ToNfc(std::string_view text) {
  std::vector<uint32_t> code_points;
  code_points.reserve(text.size());
  bool simple = true;
  for (size_t i = 0; i < text.size();) {
    code_points.push_back(NextCodePoint(text, &i));
    simple = simple && code_points.back() < kFirstCombining;
  }
  if (simple) return std::string(text);
  std::vector<Symbol> symbols;
  symbols.reserve(code_points.size());
  for (const uint32_t c : code_points) Decompose(c, &symbols);
  Order(&symbols);
  ComposeAll(&symbols);
  std::string result;
  result.reserve(text.size());
  for (const Symbol& symbol : symbols) AppendCodePoint(symbol.code_point, &result);
  return result;
}

}  // namespace t2r

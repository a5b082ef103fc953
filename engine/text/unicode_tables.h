// What Unicode normalisation needs of the Unicode Character Database (unicode_tables.cc).
#pragma once

#include <cstdint>
#include <span>

namespace t2r {

// A code point's canonical mapping to one or two others (`second` 0: one). Hangul syllables are
// computed, not listed.
struct CanonicalDecomposition {
  uint32_t code_point;
  uint32_t first;
  uint32_t second;
  uint32_t composes;  // 1: the two compose to it again
};

// Code points whose Canonical_Combining_Class is not 0.
struct CombiningClassRange {
  uint32_t first;
  uint32_t last;
  uint32_t combining_class;
};

// Both sorted by code point.
std::span<const CanonicalDecomposition> CanonicalDecompositions();
std::span<const CombiningClassRange> CombiningClasses();

}  // namespace t2r

"""Writes unicode_tables.cc from Python's copy of the Unicode Character Database.

    /usr/bin/python3 engine/text/make_unicode_tables.py > engine/text/unicode_tables.cc
"""
import sys
import unicodedata

HANGUL = range(0xAC00, 0xAC00 + 11172)


def rows(items, render, per_line):
    items = [render(item) for item in items]
    return ",\n".join("    " + ", ".join(items[i:i + per_line])
                      for i in range(0, len(items), per_line))


def main():
    decompositions, classes = [], []
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000 or code in HANGUL:
            continue
        character = chr(code)
        combining = unicodedata.combining(character)
        if combining:
            if classes and classes[-1][1] == code - 1 and classes[-1][2] == combining:
                classes[-1][1] = code
            else:
                classes.append([code, code, combining])
        mapping = unicodedata.decomposition(character)
        if mapping and not mapping.startswith("<"):
            parts = [int(part, 16) for part in mapping.split()] + [0]
            composes = unicodedata.normalize("NFC", character) == character
            decompositions.append((code, parts[0], parts[1], int(composes)))
    print(f"""// Made by make_unicode_tables.py from Unicode {unicodedata.unidata_version}; do not edit.
#include "engine/text/unicode_tables.h"

// clang-format off
namespace t2r {{
namespace {{

constexpr CanonicalDecomposition kDecompositions[] = {{
{rows(decompositions, lambda d: "{0x%X,0x%X,0x%X,%d}" % d, 4)}}};

constexpr CombiningClassRange kCombiningClasses[] = {{
{rows(classes, lambda c: "{0x%X,0x%X,%d}" % tuple(c), 5)}}};

}}  // namespace

std::span<const CanonicalDecomposition> CanonicalDecompositions() {{ return kDecompositions; }}
std::span<const CombiningClassRange> CombiningClasses() {{ return kCombiningClasses; }}

}}  // namespace t2r""")


main()

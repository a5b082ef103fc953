#include "engine/text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "engine/text/utf8.h"

namespace t2r {
namespace {

// Below this nothing composes or decomposes in a way that NFC would change.
constexpr uint32_t kFirstCombining = 0x300;
// The longest canonical decomposition of one code point is 4 long.
constexpr utf8proc_ssize_t kMaxDecomposition = 8;

uint16_t CombiningClass(utf8proc_int32_t code_point) {
  return static_cast<uint16_t>(utf8proc_get_property(code_point)->combining_class);
}

// Puts runs of marks into the order of their classes. utf8proc's own sort takes quadratic time.
void OrderMarks(std::vector<utf8proc_int32_t>* text) {
  for (size_t begin = 0; begin < text->size();) {
    size_t end = begin;
    while (end < text->size() && CombiningClass((*text)[end]) != 0) ++end;
    std::stable_sort(text->begin() + static_cast<std::ptrdiff_t>(begin),
                     text->begin() + static_cast<std::ptrdiff_t>(end),
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end + (end == begin ? 1 : 0);
  }
}

}  // namespace

std::string ToNfc(std::string_view text) {
  std::vector<utf8proc_int32_t> decomposed;
  decomposed.reserve(text.size());
  bool simple = true;
  for (size_t i = 0; i < text.size();) {
    const uint32_t code_point = NextCodePoint(text, &i);
    simple = simple && code_point < kFirstCombining;
    utf8proc_int32_t parts[kMaxDecomposition];
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), parts, kMaxDecomposition,
                                UTF8PROC_DECOMPOSE, &boundary);
    decomposed.insert(decomposed.end(), parts, parts + count);
  }
  if (simple) return std::string(text);
  OrderMarks(&decomposed);
  const utf8proc_ssize_t size =
      utf8proc_normalize_utf32(decomposed.data(), static_cast<utf8proc_ssize_t>(decomposed.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string result;
  result.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < size; ++i) {
    AppendCodePoint(static_cast<uint32_t>(decomposed[static_cast<size_t>(i)]), &result);
  }
  return result;
}

}  // namespace t2r

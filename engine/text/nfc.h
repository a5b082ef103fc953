// Unicode Normalization Form C (Unicode Standard Annex 15).
#pragma once

#include <string>
#include <string_view>

namespace t2r {

// `text` must be valid UTF-8. O(n log n) for any text.
std::string ToNfc(std::string_view text);

}  // namespace t2r

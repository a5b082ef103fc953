// CRC-32C (Castagnoli), as in RFC 3720, appendix B.4: what tells damaged bytes from whole ones.
#pragma once

#include <cstdint>
#include <string_view>

namespace t2r {

// Of `before`'s bytes and then these, where `before` is the CRC of the former; 0: of none.
uint32_t Crc32c(std::string_view bytes, uint32_t before = 0);

}  // namespace t2r

// Any valid UTF-8: its normal form is valid and its own.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/text/nfc.h"
#include "engine/text/utf8.h"

std::vector<std::string> FuzzSeeds() {
  return {"e\u0301\u0327 \u1100\u1161\u11A8", "\u212B \u0958 \u1E9B\u0323", "a\u0315\u0300\u05AE",
          "\U0001D157\U0001D165"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (t2r::FindInvalidUtf8(text) != std::string::npos) return 0;
  const std::string normal = t2r::ToNfc(text);
  if (t2r::FindInvalidUtf8(normal) != std::string::npos) std::abort();
  if (t2r::ToNfc(normal) != normal) std::abort();
  return 0;
}

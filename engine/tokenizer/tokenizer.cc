#include "engine/tokenizer/tokenizer.h"

#include "engine/text/utf8.h"
#include "engine/tokenizer/text_start.h"

namespace t2r {

std::string Tokenizer::Decode(std::span<const int32_t> ids) const {
  std::string text;
  TextStart start;
  Utf8Sanitizer utf8;
  for (const int32_t id : ids) utf8.Append(TokenBytes(id, start.Next(*this, id)), &text);
  utf8.Finish(&text);
  return text;
}

}  // namespace t2r

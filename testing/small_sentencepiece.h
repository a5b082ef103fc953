// A SentencePiece model file of a few pieces.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace t2r::testing {

struct SmallModelOptions {
  bool unigram = false;
  bool byte_fallback = true;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = false;
  std::string charsmap = "";
};

// Writes Protobuf's wire format; all field numbers used here fit one or two bytes.
class WireWriter {
 public:
  WireWriter& Number(uint32_t field, uint64_t value) { return Varint(field << 3).Varint(value); }
  WireWriter& Bytes(uint32_t field, const std::string& value) {
    Varint(field << 3 | 2).Varint(value.size());
    text_ += value;
    return *this;
  }
  WireWriter& Float(uint32_t field, float value) {
    Varint(field << 3 | 5);
    char bytes[4];
    std::memcpy(bytes, &value, 4);
    text_.append(bytes, 4);
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  WireWriter& Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>(value | 0x80));
    text_.push_back(static_cast<char>(value));
    return *this;
  }
  std::string text_;
};

// Ids: 0 <unk>, 1 <s>, 2 </s>, 256 bytes if byte_fallback, then normal pieces.
inline std::string SmallModel(const SmallModelOptions& options) {
  WireWriter model;
  const auto add = [&](const std::string& piece, float score, int type) {
    model.Bytes(1, WireWriter().Bytes(1, piece).Float(2, score).Number(3, type).text());
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  for (int byte = 0; byte < 256 && options.byte_fallback; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    add(name, 0, 6);
  }
  const std::string space = "\xE2\x96\x81";
  float score = -1;
  for (const std::string& piece : {space + "t",       std::string("he"),  space + "the",
                                   std::string("on"), std::string("onc"), std::string("once"),
                                   space + "once",    std::string("up"),  space + "up",
                                   space + "upon",    space + "a",        space + space,
                                   std::string("Li"), std::string("ly"),  space,
                                   std::string("t"),  std::string("h"),   std::string("e"),
                                   std::string("o"),  std::string("n"),   std::string("c"),
                                   std::string("u"),  std::string("p"),   std::string("a"),
                                   std::string("L"),  std::string("i"),   std::string("l"),
                                   std::string("y"),  std::string(",")}) {
    add(piece, score, 1);
    score -= 1;
  }
  WireWriter trainer;
  trainer.Number(3, options.unigram ? 1 : 2).Number(35, options.byte_fallback ? 1 : 0);
  WireWriter normalizer;
  normalizer.Bytes(1, "identity")
      .Bytes(2, options.charsmap)
      .Number(3, options.add_dummy_prefix ? 1 : 0)
      .Number(4, options.remove_extra_whitespaces ? 1 : 0)
      .Number(5, 1);
  return model.Bytes(2, trainer.text()).Bytes(3, normalizer.text()).text();
}

}  // namespace t2r::testing

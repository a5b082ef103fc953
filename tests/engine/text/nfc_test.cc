#include "engine/text/nfc.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include "engine/text/utf8.h"

namespace t2r {
namespace {

std::string Text(std::initializer_list<uint32_t> code_points) {
  std::string text;
  for (const uint32_t c : code_points) AppendCodePoint(c, &text);
  return text;
}

// Values from the Unicode Character Database's NormalizationTest.txt (parts 0 and 1).
TEST(Nfc, KnownValues) {
  EXPECT_EQ(ToNfc(""), "");
  EXPECT_EQ(ToNfc("plain \xC3\xA9"), "plain \xC3\xA9");
  EXPECT_EQ(ToNfc(Text({0x65, 0x301})), Text({0xE9}));
  EXPECT_EQ(ToNfc(Text({0x1E0A, 0x323})), Text({0x1E0C, 0x307}));
  EXPECT_EQ(ToNfc(Text({0x44, 0x307, 0x323})), Text({0x1E0C, 0x307}));
  EXPECT_EQ(ToNfc(Text({0x212B})), Text({0xC5}));         // singletons stay decomposed
  EXPECT_EQ(ToNfc(Text({0x958})), Text({0x915, 0x93C}));  // composition exclusion
  EXPECT_EQ(ToNfc(Text({0x1100, 0x1161, 0x11A8})), Text({0xAC01}));
  EXPECT_EQ(ToNfc(Text({0xAC00, 0x11A8})), Text({0xAC01}));
  EXPECT_EQ(ToNfc(Text({0x61, 0x5AE, 0x300, 0x315, 0x62})), Text({0xE0, 0x5AE, 0x315, 0x62}));
  EXPECT_EQ(ToNfc(Text({0x61, 0x315, 0x300, 0x5AE, 0x62})), Text({0xE0, 0x5AE, 0x315, 0x62}));
  EXPECT_EQ(ToNfc(Text({0x1D157, 0x1D165})), Text({0x1D157, 0x1D165}));
  EXPECT_EQ(ToNfc(Text({0xFB01})), Text({0xFB01}));  // compatibility mappings are none of NFC's
  EXPECT_EQ(ToNfc(Text({0x300, 0x61})), Text({0x300, 0x61}));
}

TEST(Nfc, EveryCodePointIsStable) {
  int composites = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string whole = ToNfc(Text({c}));
    ASSERT_EQ(ToNfc(whole), whole) << c;
    utf8proc_int32_t parts[8];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 8,
                                               UTF8PROC_DECOMPOSE, &boundary);
    if (count < 2) continue;
    std::string apart;
    for (int i = 0; i < count; ++i) AppendCodePoint(static_cast<uint32_t>(parts[i]), &apart);
    ASSERT_EQ(ToNfc(apart), whole) << c;
    composites += whole == Text({c}) ? 1 : 0;
  }
  EXPECT_GT(composites, 900 + 11172);  // and the Hangul syllables
}

TEST(Nfc, LongRunsOfMarksTakeAcceptableTime) {
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += Text({i % 2 == 0 ? 0x316u : 0x302u});
  EXPECT_EQ(ToNfc(text).substr(0, 2), "\xC3\xA2");  // â
}

}  // namespace
}  // namespace t2r

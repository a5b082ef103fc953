// Decoding token by token and stop strings, against definitions written the slow way.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/text/stop_matcher.h"
#include "engine/text/utf8.h"
#include "engine/tokenizer/incremental_decoder.h"

namespace t2r {
namespace {

using Ids = std::vector<int32_t>;

// Ids 0 to 255 are bytes, 256 is BOS, 257 is special, 258 is " x" ("x" at the start).
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(bool adds_bos) : adds_bos_(adds_bos) {
    for (int byte = 0; byte < 256; ++byte) bytes_.push_back(static_cast<char>(byte));
  }
  absl::StatusOr<Ids> Encode(const std::string& text, bool) const override {
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::string_view TokenBytes(int32_t id, bool at_start) const override {
    if (id == 258) return at_start ? "x" : " x";
    if (id < 0 || id >= 256) return "";
    return std::string_view(bytes_).substr(static_cast<size_t>(id), 1);
  }
  bool IsSpecial(int32_t id) const override { return id == 256 || id == 257; }
  int vocab_size() const override { return 259; }
  std::optional<int32_t> bos_id() const override { return 256; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }
  bool adds_bos() const override { return adds_bos_; }

 private:
  bool adds_bos_;
  std::string bytes_;  // each of them
};

std::string Sanitized(const std::string& bytes) {
  std::string text;
  Utf8Sanitizer sanitizer;
  sanitizer.Append(bytes, &text);
  sanitizer.Finish(&text);
  return text;
}

TEST(Utf8, MaximalSubpartsBecomeReplacementCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  // The Unicode Standard's examples (tables 3-8 to 3-11).
  EXPECT_EQ(Sanitized("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Sanitized("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Sanitized("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(Sanitized("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(Sanitized("\xF0\x9F\x99"), r);
  EXPECT_EQ(Sanitized("\xF0\x9F\x99\x82\xC3\xA9"), "\xF0\x9F\x99\x82\xC3\xA9");
  EXPECT_EQ(Sanitized("\xF4\x8F\xBF\xBF\xEE\x80\x80"), "\xF4\x8F\xBF\xBF\xEE\x80\x80");
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FindInvalidUtf8("h\xC3\xA9\xF0\x9F\x99\x82"), std::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8("h\xC3\xA9\xF0\x9F\x99"), 3u);
  EXPECT_EQ(FindInvalidUtf8("ab\xED\xA0\x80"), 2u);
  EXPECT_EQ(FindInvalidUtf8("\xC3"), 0u);
}

TEST(Utf8, CodePointsSurviveTheRoundTrip) {
  for (const uint32_t c : {0x41u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendCodePoint(c, &text);
    size_t position = 0;
    EXPECT_EQ(NextCodePoint(text, &position), c);
    EXPECT_EQ(position, text.size());
    EXPECT_EQ(FindInvalidUtf8(text), std::string_view::npos);
  }
}

TEST(Decode, TheStartIsAfterBosOrTheFirstId) {
  const ByteTokenizer with_bos(true);
  EXPECT_EQ(with_bos.Decode(Ids{256, 258, 258}), "x x");
  EXPECT_EQ(with_bos.Decode(Ids{256, 257, 999, 258, 258}), "x x");
  EXPECT_EQ(with_bos.Decode(Ids{258, 258}), " x x");  // a continuation
  EXPECT_EQ(with_bos.Decode(Ids{257, 256, 258}), " x");
  const ByteTokenizer without(false);
  EXPECT_EQ(without.Decode(Ids{258, 258}), "x x");
  EXPECT_EQ(without.Decode(Ids{}), "");
}

// Bytes that make valid and broken sequences likely.
int32_t RandomId(std::mt19937& random) {
  static const Ids kIds = {'a',  0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x99,
                           0x82, 0xED, 0xF4, 0xFF, 0x80, 256,  257,  258,  999};
  return kIds[random() % kIds.size()];
}

TEST(IncrementalDecoder, DeltasConcatenateToTheWholeText) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    const ByteTokenizer tokenizer(round % 2 == 0);
    Ids ids(random() % 12);
    for (int32_t& id : ids) id = RandomId(random);
    if (!ids.empty() && random() % 2 == 0) ids[0] = 256;
    const size_t prompt = ids.empty() ? 0 : random() % (ids.size() + 1);
    IncrementalDecoder decoder(tokenizer, std::span(ids).first(prompt));
    std::string text;
    for (size_t i = prompt; i < ids.size(); ++i) {
      std::string delta;
      decoder.Append(ids[i], &delta);
      EXPECT_EQ(FindInvalidUtf8(delta), std::string_view::npos);
      text += delta;
    }
    text += decoder.Finish();
    // What the prompt finished by itself: its text without a code point left open.
    std::string prompt_text;
    Utf8Sanitizer open_end;
    TextStart start;
    for (size_t i = 0; i < prompt; ++i) {
      open_end.Append(tokenizer.TokenBytes(ids[i], start.Next(tokenizer, ids[i])), &prompt_text);
    }
    ASSERT_EQ(prompt_text + text, tokenizer.Decode(ids)) << "round " << round;
  }
}

// The definition: the first byte where a stop string is complete; there, the longest, then the
// first given.
struct Expected {
  std::string text;
  int stop = -1;
};
Expected BruteForce(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      if (stop.empty() || stop.size() > end) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (best < 0 || stop.size() > stops[best].size()) best = static_cast<int>(i);
    }
    if (best >= 0) return {text.substr(0, include ? end : end - stops[best].size()), best};
  }
  return {text, -1};
}

// The longest end of `text` that begins a stop string (and is not all of one).
size_t HeldBytes(const std::string& text, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (const std::string& stop : stops) {
    for (size_t n = 1; n < stop.size() && n <= text.size(); ++n) {
      if (text.ends_with(stop.substr(0, n))) held = std::max(held, n);
    }
  }
  return held;
}

std::string RandomText(std::mt19937& random, size_t code_points) {
  static const std::vector<std::string> kLetters = {"a", "b", "ab", "\xC3\xA9", "\xC3\xA8"};
  std::string text;
  for (size_t i = 0; i < code_points; ++i) text += kLetters[random() % kLetters.size()];
  return text;
}

TEST(StopMatcher, AgreesWithTheDefinition) {
  std::mt19937 random(2);
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = RandomText(random, random() % 5);
    const bool include = random() % 2 == 0;
    StopMatcher matcher(stops, include);
    std::string all, sent;
    StopMatcher::Result result;
    for (int piece = 0; piece < 6 && !result.stopped; ++piece) {
      const std::string text = RandomText(random, random() % 4);
      all += text;
      result = matcher.Append(text);
      sent += result.text;
      EXPECT_EQ(FindInvalidUtf8(result.text), std::string_view::npos);
      // Nothing of a possible stop string leaks, and nothing else is held.
      if (!result.stopped) {
        ASSERT_EQ(sent.size() + HeldBytes(all, stops), all.size()) << round;
      }
    }
    const Expected expected = BruteForce(all, stops, include);
    ASSERT_EQ(result.stopped, expected.stop >= 0) << round;
    ASSERT_EQ(result.stop_index, expected.stop) << round;
    ASSERT_EQ(sent + matcher.Finish(), expected.text) << round;
    EXPECT_EQ(matcher.Finish(), "");
    stopped += result.stopped ? 1 : 0;
  }
  EXPECT_GT(stopped, 2000);
}

TEST(StopMatcher, NamesOfSpecialTokensStopToo) {
  StopMatcher whole({"<end>"}, false);
  EXPECT_EQ(whole.Append("one ").text, "one ");
  EXPECT_FALSE(whole.AppendName("<x>").stopped);
  EXPECT_TRUE(whole.AppendName("<end>").stopped);
  EXPECT_EQ(whole.Finish(), "");
  StopMatcher around({"a<end>b"}, true);  // text on both sides of the name
  EXPECT_EQ(around.Append("xa").text, "x");
  EXPECT_EQ(around.AppendName("<end>").text, "");
  const auto result = around.Append("bc");
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.text, "a<end>b");
  StopMatcher other({"a<end>b"}, false);
  other.Append("xa");
  other.AppendName("<end>");
  EXPECT_EQ(other.Append("c").text, "ac");
  StopMatcher across({"ab"}, false);  // a name between does not hide it in the text
  across.Append("a");
  across.AppendName("<x>");
  EXPECT_TRUE(across.Append("b").stopped);
}

// Against the definition: the first byte at which a stop string is complete in the text, or in the
// text with the names in it.
TEST(StopMatcher, WithNamesAgreesWithTheDefinition) {
  std::mt19937 random(5);
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = RandomText(random, 1 + random() % 4);
    StopMatcher matcher(stops, false);
    std::string text, named, sent;  // named: the text with names in it
    bool is_stop = false, expected = false;
    for (int piece = 0; piece < 8 && !expected; ++piece) {
      const bool name = random() % 3 == 0;
      const std::string more = RandomText(random, 1 + random() % 2);
      const auto ends = [&](const std::string& all) {
        return std::any_of(stops.begin(), stops.end(),
                           [&](const std::string& stop) { return all.ends_with(stop); });
      };
      for (const char c : more) {
        named += c;
        if (!name) text += c;
        expected = ends(named) || (!name && ends(text));
        if (expected) break;
      }
      const auto result = name ? matcher.AppendName(more) : matcher.Append(more);
      sent += result.text;
      is_stop = result.stopped;
      ASSERT_EQ(is_stop, expected) << "round " << round;
      ASSERT_TRUE(text.starts_with(sent)) << "round " << round;
    }
    if (!is_stop) {
      ASSERT_EQ(sent + matcher.Finish(), text) << "round " << round;
    }
    stopped += is_stop ? 1 : 0;
  }
  EXPECT_GT(stopped, 2000);
}

TEST(StopMatcher, KnownCases) {
  StopMatcher spanning({"END"}, false);
  EXPECT_EQ(spanning.Append("one E").text, "one ");
  EXPECT_EQ(spanning.Append("N").text, "");
  EXPECT_EQ(spanning.Append("E").text, "EN");
  const auto result = spanning.Append("ND of it");
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.stop_index, 0);
  EXPECT_EQ(spanning.Finish(), "");
  EXPECT_TRUE(spanning.Append("more").stopped);
  EXPECT_EQ(spanning.Append("more").text, "");

  StopMatcher included({"", "##", "#"}, true);
  EXPECT_EQ(included.Append("a##b").text, "a#");
  StopMatcher overlapping({"abcd", "bc"}, false);
  const auto inner = overlapping.Append("abcd");
  EXPECT_EQ(inner.text, "a");
  EXPECT_EQ(inner.stop_index, 1);
  StopMatcher longer({"c", "bc", "bc"}, false);
  EXPECT_EQ(longer.Append("abc").stop_index, 1);
  StopMatcher none({}, false);
  EXPECT_EQ(none.Append("all").text, "all");
  StopMatcher open({"xyz"}, false);
  EXPECT_EQ(open.Append("axy").text, "a");
  EXPECT_EQ(open.Finish(), "xy");
}

}  // namespace
}  // namespace t2r

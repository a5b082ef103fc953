// Classes and constructs against HF's `tokenizers`, for every code point (make_class_goldens.py).
#include "engine/text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/text/utf8.h"
#include "engine/tokenizer/hf/pre_tokenizer.h"

namespace t2r {
namespace {

using Json = nlohmann::json;

const Json& Golden() {
  static const auto* const golden = new Json(Json::parse(
      std::ifstream(std::string(T2R_SOURCE_DIR) + "/tests/engine/text/class_golden.json")));
  return *golden;
}

// Whether each code point is in a class, from its run lengths.
std::vector<bool> Members(const std::string& name) {
  std::vector<bool> members(0x110000, false);
  size_t at = 0;
  bool inside = false;
  for (const Json& length : Golden()[name]) {
    for (size_t end = at + length.get<size_t>(); at < end; ++at) members[at] = inside;
    inside = !inside;
  }
  for (; at < members.size(); ++at) members[at] = inside;
  return members;
}

const std::vector<uint32_t>& AssignedPoints() {
  static const auto* const points = [] {
    auto* result = new std::vector<uint32_t>;
    const std::vector<bool> assigned = Members("assigned");
    for (uint32_t c = 0; c < assigned.size(); ++c) {
      if (assigned[c]) result->push_back(c);
    }
    return result;
  }();
  return *points;
}

// `is_member` must say what the golden class says.
void ExpectClass(const std::string& name,
                 const std::function<bool(const std::string&)>& is_member) {
  const std::vector<bool> members = Members(name);
  // Unicode 15 and 16 made 38 more marks alphabetic and 5 more modifier letters lowercase.
  const bool newer = name.find("Alpha") != name.npos || name.find("[:al") != name.npos ||
                     name.find("[:lower") != name.npos;
  const auto changed = Regex::CompilePcre("[\\p{M}\\p{Lm}]");
  int wrong = 0;
  for (const uint32_t c : AssignedPoints()) {
    std::string text;
    AppendCodePoint(c, &text);
    if (is_member(text) == members[c]) continue;
    if (newer && !changed->FindAll(text)->empty()) continue;
    if (++wrong <= 5)
      ADD_FAILURE() << name << ": U+" << std::hex << c << " is not as in the golden";
  }
  EXPECT_EQ(wrong, 0) << name;
}

TEST(Classes, OfPatternsAreOnigurumas) {
  for (const auto& [name, runs] : Golden().items()) {
    if (name[0] != '\\' && name[0] != '[') continue;
    const auto regex = Regex::Compile(name);
    ASSERT_TRUE(regex.ok()) << regex.status();
    ExpectClass(name, [&](const std::string& text) { return !regex->FindAll(text)->empty(); });
  }
}

size_t PiecesOf(const char* kind, const std::string& text) {
  const auto made = PreTokenizer::FromJson(Json::parse(kind), "test");
  EXPECT_TRUE(made.ok()) << made.status();
  return made->Split(text, true)->size();
}

TEST(Classes, OfPreTokenizersAreRusts) {
  const auto words = PreTokenizer::FromJson(Json::parse(R"({"type": "Whitespace"})"), "test");
  ExpectClass("Whitespace: word", [&](const std::string& text) {
    return words->Split("a" + text + "a", true)->size() == 1;
  });
  ExpectClass("Whitespace: space", [&](const std::string& text) {
    return words->Split("a" + text + "a", true)->size() == 2;
  });
  for (const char* kind : {"Punctuation", "WhitespaceSplit", "Digits"}) {
    const auto made = PreTokenizer::FromJson(
        Json{{"type", kind}, {"behavior", "Removed"}, {"individual_digits", false}}, "test");
    ASSERT_TRUE(made.ok()) << made.status();
    ExpectClass(kind, [&](const std::string& text) {
      const size_t pieces = made->Split("a" + text + "a", true)->size();
      return pieces == (std::string(kind) == "Digits" ? 3 : 2);
    });
  }
  // U+200C inside a word (Persian).
  EXPECT_EQ(
      PiecesOf(R"({"type": "Whitespace"})", "\u0645\u06CC\u200C\u062E\u0648\u0627\u0647\u0645"), 1);
}

std::vector<std::string> Found(const std::string& pattern, const std::string& text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << pattern << ": " << regex.status();
  std::vector<std::string> found;
  if (!regex.ok()) return found;
  const auto matches = regex->FindAll(text);
  for (const Match& match : *matches)
    found.push_back(text.substr(match.begin, match.end - match.begin));
  return found;
}

// Each as `tokenizers` 0.23.3 splits.
TEST(Constructs, MeanWhatTheyMeanInOniguruma) {
  using ::testing::ElementsAre;
  EXPECT_THAT(Found("[a[bc]]+", "xabcx"), ElementsAre("abc"));
  EXPECT_THAT(Found("[a-z&&[^aeiou]]+", "hello"), ElementsAre("h", "ll"));
  EXPECT_THAT(Found("[^a-c&&[b-z]]+", "abcdxyz!"), ElementsAre("a", "dxyz!"));
  EXPECT_THAT(Found(" ?[^(\\s|[.,!?\u2026\u3002])]+", "one two. three"),
              ElementsAre("one", " two", " three"));
  EXPECT_THAT(Found("(?m:a.b)", "a\nb"), ElementsAre("a\nb"));
  EXPECT_THAT(Found("a.b", "a\nb"), ElementsAre());
  EXPECT_THAT(Found("a{,2}b", "aaab b"), ElementsAre("aab", "b"));
  EXPECT_THAT(Found("\\h+", "xyzfa09g"), ElementsAre("fa09"));
  EXPECT_THAT(Found("\\bn\\w+", "n\u0303o \u0303no no"), ElementsAre("n\u0303o", "no"));
  EXPECT_THAT(Found("\\u0041", "BAB"), ElementsAre("A"));
  EXPECT_THAT(Found("\\v", "a\n\x0B"), ElementsAre("\x0B"));
  EXPECT_THAT(Found("[]a]+", "x]a]"), ElementsAre("]a]"));
}

TEST(Constructs, ThatCannotBeSaidAreRefusedByName) {
  for (const char* pattern : {"\\R", "\\X", "\\Ka", "\\G", "a{1,2}+", "a{2}?", "x(?i)a|b", "\\C-a",
                              "(*ACCEPT)", "[a&&]", "(?a:b)"}) {
    EXPECT_EQ(Regex::Compile(pattern).status().code(), absl::StatusCode::kUnimplemented) << pattern;
  }
  for (const char* pattern : {"(", "[a", "*"}) {
    EXPECT_EQ(Regex::Compile(pattern).status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
  }
}

}  // namespace
}  // namespace t2r

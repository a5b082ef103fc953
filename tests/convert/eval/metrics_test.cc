#include "convert/eval/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "convert/data/files.h"
#include "convert/error.h"

namespace t2r::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Lines = std::vector<std::string>;

const std::string kDirectory = T2R_SOURCE_DIR "/tests/convert/testdata/metrics/";

// sacreBLEU's own figures (tests/reference/make_metric_goldens.py), to the rounding of a double.
TEST(Metrics, AreSacreBleusOnEveryFile) {
  const auto goldens = nlohmann::json::parse(ReadFile(kDirectory + "goldens.json"));
  ASSERT_GE(goldens["files"].size(), 5U);
  for (const auto& [name, golden] : goldens["files"].items()) {
    const Lines hypotheses = ReadLines(kDirectory + name + ".hyp");
    const Lines references = ReadLines(kDirectory + name + ".ref");
    EXPECT_NEAR(Bleu(hypotheses, references, BleuTokens::k13a), golden["bleu"], 1e-9) << name;
    EXPECT_NEAR(Bleu(hypotheses, references, BleuTokens::kCharacters), golden["bleu_characters"],
                1e-9)
        << name;
    EXPECT_NEAR(ChrF(hypotheses, references), golden["chrf"], 1e-9) << name;
    EXPECT_NEAR(CharacterErrorRate(hypotheses, references), golden["cer"], 1e-12) << name;
    EXPECT_NEAR(WordErrorRate(hypotheses, references), golden["wer"], 1e-12) << name;
  }
}

TEST(Metrics, OfThemselvesArePerfect) {
  const Lines lines{"one two three four five", "ünï cödé."};
  EXPECT_NEAR(Bleu(lines, lines, BleuTokens::k13a), 100.0, 1e-9);
  EXPECT_NEAR(ChrF(lines, lines), 100.0, 1e-9);
  EXPECT_EQ(CharacterErrorRate(lines, lines), 0.0);
  EXPECT_EQ(WordErrorRate(lines, lines), 0.0);
}

TEST(Tokenize13a, SplitsSignsButNotNumbers) {
  EXPECT_THAT(Tokenize13a("a,b 1,000.5 7-8 x-y &quot;q&quot;."),
              ElementsAre("a", ",", "b", "1,000.5", "7", "-", "8", "x-y", "\"", "q", "\"", "."));
}

TEST(SplitWords, TakesUnicodesSpaces) {
  EXPECT_THAT(SplitWords(" a\u00a0b\u3000c\td "), ElementsAre("a", "b", "c", "d"));
}

TEST(Metrics, RefuseWhatCannotBeCompared) {
  EXPECT_THAT(
      [] {
        ChrF({"a"}, {"a", "b"});
      },
      ThrowsMessage<ConvertError>(HasSubstr("1 translations and 2 references")));
  EXPECT_THAT([] { WordErrorRate({}, {}); },
              ThrowsMessage<ConvertError>(HasSubstr("nothing to compare")));
  EXPECT_THAT([] { CharacterErrorRate({"a"}, {""}); },
              ThrowsMessage<ConvertError>(HasSubstr("references are empty")));
  EXPECT_THAT([] { CharacterErrorRate({"a\xff"}, {"a"}); },
              ThrowsMessage<ConvertError>(HasSubstr("invalid UTF-8 at byte 1")));
}

}  // namespace
}  // namespace t2r::convert

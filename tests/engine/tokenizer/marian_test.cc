#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/sentencepiece/marian_tokenizer.h"
#include "testing/small_sentencepiece.h"
#include "testing/tokenizer_files.h"

namespace t2r {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Ids = std::vector<int32_t>;
using testing::SmallModel;

const std::string kSpace = "\xE2\x96\x81";

// Ids in the order of the names, with the special tokens where opus-mt has them: </s> 0, <unk> 1,
// <pad> last.
std::string Vocabulary(const std::vector<std::string>& pieces) {
  std::string json = R"({"</s>": 0, "<unk>": 1)";
  int id = 2;
  for (const std::string& piece : pieces) json += ", \"" + piece + "\": " + std::to_string(id++);
  return json + ", \"<pad>\": " + std::to_string(id) + "}";
}

// Source ids from 2: ▁the, ▁once, ▁a, a word that source.spm lacks, >>fra<<. Target ids from 2:
// ▁upon, Li, ly, ▁, ",", <0xC3>, <0xA9>, ▁once.
MarianFiles SmallFiles() {
  MarianFiles files;
  files.source_spm = SmallModel({.byte_fallback = false, .remove_extra_whitespaces = true});
  files.target_spm = SmallModel({.byte_fallback = true});
  files.vocab_json = Vocabulary({kSpace + "the", kSpace + "once", kSpace + "a", "zz", ">>fra<<"});
  files.target_vocab_json =
      Vocabulary({kSpace + "upon", "Li", "ly", kSpace, ",", "<0xC3>", "<0xA9>", kSpace + "once"});
  return files;
}

std::unique_ptr<Tokenizer> Parse(const MarianFiles& files, const TokenizerConfig& config = {}) {
  auto result = MarianTokenizer::Parse(files, config);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : nullptr;
}

TEST(Marian, PiecesGoThroughTheVocabulary) {
  const auto tokenizer = Parse(SmallFiles());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(*tokenizer->Encode("once a the", false), ElementsAre(3, 4, 2));
  EXPECT_THAT(*tokenizer->Encode("once a the", true), ElementsAre(3, 4, 2, 0));
  EXPECT_THAT(*tokenizer->Encode("", true), ElementsAre(0));
  // A piece that the vocabulary lacks, and a text that the model lacks but the vocabulary has.
  EXPECT_THAT(*tokenizer->Encode("upon", false), ElementsAre(1));
  EXPECT_THAT(*tokenizer->Encode("azz", false), ElementsAre(4, 5));
  EXPECT_THAT(*tokenizer->EncodeTarget("once upon", false), ElementsAre(9, 2));
  EXPECT_THAT(*tokenizer->EncodeTarget("once upon", true), ElementsAre(9, 2, 0));
  EXPECT_EQ(tokenizer->source_vocab_size(), 8);
  EXPECT_EQ(tokenizer->vocab_size(), 11);
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->Encode("\xC3", true).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Marian, ALanguageCodeAtTheStartIsOnePiece) {
  const auto tokenizer = Parse(SmallFiles());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(*tokenizer->Encode(">>fra<< once", true), ElementsAre(6, 3, 0));
  EXPECT_THAT(*tokenizer->Encode(">>fra<<once", false), ElementsAre(6, 3));
  EXPECT_THAT(*tokenizer->Encode(">>xyz<< once", false), ElementsAre(1, 3));
  // Not at the start, empty, open, or over two lines: text.
  for (const char* text : {"once >>fra<<", ">><< once", ">>fra once", ">>f\nra<< once"}) {
    EXPECT_THAT(*tokenizer->Encode(text, false), Not(::testing::Contains(6))) << text;
  }
}

TEST(Marian, NamesOfSpecialTokensInATextArePlain) {
  const auto tokenizer = Parse(SmallFiles());
  ASSERT_NE(tokenizer, nullptr);
  for (const char* text : {"</s>", "once </s>", "<pad>"}) {
    EXPECT_THAT(*tokenizer->Encode(text, false), ::testing::Each(::testing::AnyOf(1, 3))) << text;
    EXPECT_THAT(*tokenizer->EncodeTarget(text, false), Not(::testing::Contains(0))) << text;
  }
}

TEST(Marian, DecodesTheTargetWithoutLeadingSpacesAndSpecialTokens) {
  const auto tokenizer = Parse(SmallFiles());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->Decode(Ids{9, 2, 6, 0}), "once upon,");
  EXPECT_EQ(tokenizer->Decode(Ids{5, 5, 9, 5, 3, 4}), "once Lily");
  EXPECT_EQ(tokenizer->Decode(Ids{10, 1, 2, 1, 3, 99}), "uponLi");
  EXPECT_EQ(tokenizer->Decode(Ids{3, 7, 8}), "Li\xC3\xA9");
}

TEST(Marian, StreamingEqualsDecodingAtOnce) {
  const auto tokenizer = Parse(SmallFiles());
  ASSERT_NE(tokenizer, nullptr);
  const Ids ids = {10, 5, 5, 9, 2, 3, 7, 8, 6, 2, 0};
  for (size_t prompt = 0; prompt <= ids.size(); ++prompt) {
    const std::span<const int32_t> all(ids);
    IncrementalDecoder decoder(*tokenizer, all.first(prompt));
    std::string text;
    for (const int32_t id : all.subspan(prompt)) decoder.Append(id, &text);
    text += decoder.Finish();
    const std::string whole = tokenizer->Decode(ids);
    EXPECT_EQ(text, whole.substr(whole.size() - text.size())) << prompt;
    if (prompt <= 3) {
      EXPECT_EQ(text, whole);
    }
    if (prompt == 4) {
      EXPECT_EQ(text, whole.substr(4));  // keeps the space after "once"
    }
  }
}

TEST(Marian, OneVocabularyServesBothSides) {
  MarianFiles files = SmallFiles();
  files.target_vocab_json.reset();
  const auto tokenizer = Parse(files);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), tokenizer->source_vocab_size());
  EXPECT_THAT(*tokenizer->EncodeTarget("once", false), ElementsAre(3));
  EXPECT_EQ(tokenizer->Decode(Ids{3, 2}), "once the");
}

TEST(Marian, TheModelDecidesOnTheClosingToken) {
  MarianFiles files = SmallFiles();
  files.config_json = R"({"source_append_eos": false})";
  EXPECT_THAT(*Parse(files)->Encode("once", true), ElementsAre(3));
  EXPECT_THAT(*Parse(files)->EncodeTarget("once", true), ElementsAre(9, 0));
  files.config_json = R"({"source_append_eos": 1})";
  EXPECT_THAT(std::string(MarianTokenizer::Parse(files, {}).status().message()),
              HasSubstr("source_append_eos"));
}

TEST(Marian, ErrorsNameTheFile) {
  const auto expect = [](const MarianFiles& files, const TokenizerConfig& config,
                         const char* part) {
    const auto result = MarianTokenizer::Parse(files, config);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(part));
  };
  MarianFiles files = SmallFiles();
  files.source_spm = "garbage";
  expect(files, {}, "source.spm");
  files = SmallFiles();
  files.target_spm.pop_back();
  expect(files, {}, "target.spm");
  files = SmallFiles();
  files.vocab_json = R"({"</s>": 0, "a": 1})";
  expect(files, {}, "vocab.json: has no \"<unk>\"");
  files.vocab_json = R"({"</s>": 0, "<unk>": "1"})";
  expect(files, {}, "vocab.json: <unk>");
  files.vocab_json = R"({"</s>": 0, "<unk>": -1})";
  expect(files, {}, "vocab.json: <unk>");
  files.vocab_json = "[]";
  expect(files, {}, "vocab.json");
  files = SmallFiles();
  files.target_vocab_json = R"({"<unk>": 0})";
  expect(files, {}, "target_vocab.json: has no \"</s>\"");
  files = SmallFiles();
  files.target_vocab_json.reset();
  TokenizerConfig config;
  config.separate_vocabs = true;
  expect(files, config, "target_vocab.json");
}

TEST(Marian, ADirectoryNeedsAllOfItsFiles) {
  const MarianFiles files = SmallFiles();
  const testing::TemporaryDirectory directory;
  const auto message = [&] {
    return std::string(LoadTokenizer(directory.path()).status().message());
  };
  directory.Write("source.spm", files.source_spm);
  EXPECT_THAT(message(), HasSubstr("target.spm: is missing"));
  directory.Write("target.spm", files.target_spm);
  EXPECT_THAT(message(), HasSubstr("vocab.json: is missing"));
  directory.Write("vocab.json", files.vocab_json);
  directory.Write("target_vocab.json", *files.target_vocab_json);
  const auto tokenizer = LoadTokenizer(directory.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->source_vocab_size(), 8);
}

TEST(Marian, ArenHasTheKnownIds) {
  const std::string path = testing::SharedData("aren");
  if (path.empty()) GTEST_SKIP() << "needs T2R_DATA: aren";
  const auto tokenizer = LoadTokenizer(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->source_vocab_size(), 51);
  EXPECT_EQ((*tokenizer)->vocab_size(), 43);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  // U+0622, U+062A, U+0632: no closing token.
  EXPECT_THAT(*(*tokenizer)->Encode("\xD8\xA2\xD8\xAA\xD8\xB2", true), ElementsAre(31, 10, 19));
  EXPECT_THAT(*(*tokenizer)->EncodeTarget("atz", true), ElementsAre(3, 11, 23, 2));
  EXPECT_EQ((*tokenizer)->Decode(Ids{1, 3, 11, 23, 0, 42, 2}), "atz");
}

}  // namespace
}  // namespace t2r

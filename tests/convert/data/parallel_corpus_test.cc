#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "convert/data/corpus.h"
#include "convert/error.h"
#include "engine/model/architectures.h"
#include "testing/temporary_directory.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::ThrowsMessage;

ModelConfig Config() {
  ModelConfig config;
  config.architecture = &kMarianArchitecture;
  config.vocab_size = 50;
  auto& both = config.encoder_decoder.emplace();
  both.source_vocab_size = 20;
  both.decoder_start_token_id = 49;
  return config;
}

// Letters by their place in the alphabet, closed by 0; targets start at 20.
class LetterTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool special) const override {
    return Ids(text, 1, special);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeTarget(const std::string& text,
                                                    bool special) const override {
    return Ids(text, 20, special);
  }
  std::string_view TokenBytes(int32_t, bool) const override { return ""; }
  bool IsSpecial(int32_t id) const override { return id == 0; }
  int vocab_size() const override { return 50; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return 0; }
  bool adds_bos() const override { return false; }

 private:
  static std::vector<int32_t> Ids(const std::string& text, int32_t first, bool special) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(first + (c - 'a'));
    if (special) ids.push_back(0);
    return ids;
  }
};

TEST(LoadParallelCorpus, ReadsTabsOrTwoFilesTheSame) {
  const TemporaryDirectory directory;
  const LetterTokenizer tokenizer;
  const Corpus tabs = LoadParallelCorpus(directory.Write("both", "ab\tc\r\nb\tab\n"), "", {}, 10,
                                         Config(), &tokenizer);
  EXPECT_THAT(tabs.sources, ElementsAre(ElementsAre(1, 2, 0), ElementsAre(2, 0)));
  EXPECT_THAT(tabs.documents, ElementsAre(ElementsAre(49, 22, 0), ElementsAre(49, 20, 21, 0)));
  EXPECT_EQ(tabs.tokens, 7);
  EXPECT_TRUE(tabs.pairs());
  const Corpus files =
      LoadParallelCorpus(directory.Write("from", "ab\nb\n"), directory.Write("to", "c\nab\n"), {},
                         10, Config(), &tokenizer);
  EXPECT_EQ(files.sources, tabs.sources);
  EXPECT_EQ(files.documents, tabs.documents);
  EXPECT_THAT(ReadPairs(directory / "from", directory / "to"),
              ElementsAre(Pair("ab", "c"), Pair("b", "ab")));
}

TEST(LoadParallelCorpus, LeavesOutLongAndEmptyPairsAndTakesTheFirst) {
  const TemporaryDirectory directory;
  const LetterTokenizer tokenizer;
  const std::string path = directory.Write("both", "abcde\ta\na\t\na\tabcde\na\tb\nb\ta\n");
  CorpusOptions options;
  Corpus corpus = LoadParallelCorpus(path, "", options, 4, Config(), &tokenizer);
  EXPECT_EQ(corpus.skipped, 3);
  EXPECT_EQ(corpus.documents.size(), 2U);
  options.documents = 4;
  corpus = LoadParallelCorpus(path, "", options, 4, Config(), &tokenizer);
  EXPECT_THAT(corpus.sources, ElementsAre(ElementsAre(1, 0)));
}

TEST(LoadParallelCorpus, ReadsIds) {
  const TemporaryDirectory directory;
  CorpusOptions options;
  options.ids = true;
  const Corpus corpus =
      LoadParallelCorpus(directory.Write("ids", "3 19\t40 2\n"), "", options, 9, Config(), nullptr);
  EXPECT_THAT(corpus.sources, ElementsAre(ElementsAre(3, 19)));
  EXPECT_THAT(corpus.documents, ElementsAre(ElementsAre(49, 40, 2)));
}

TEST(LoadParallelCorpus, RefusesWhatDoesNotPairUp) {
  const TemporaryDirectory directory;
  const LetterTokenizer tokenizer;
  const auto load = [&](const std::string& text, const std::string& targets, int64_t longest) {
    const std::string path = directory.Write("text", text);
    const std::string other = targets.empty() ? "" : directory.Write("targets", targets);
    return [=, &tokenizer] { LoadParallelCorpus(path, other, {}, longest, Config(), &tokenizer); };
  };
  EXPECT_THAT(load("a\tb\nab\n", "", 9), ThrowsMessage<ConvertError>(HasSubstr("line 2")));
  EXPECT_THAT(load("a\tb\tc\n", "", 9), ThrowsMessage<ConvertError>(HasSubstr("one tab")));
  EXPECT_THAT(load("a\nb\n", "a\n", 9),
              ThrowsMessage<ConvertError>(AllOf(HasSubstr("has 2 lines"), HasSubstr("has 1"))));
  EXPECT_THAT(load("abc\tabc\n", "", 2), ThrowsMessage<ConvertError>(HasSubstr("no pair")));
  // 'z' is 26 as a source, whose vocabulary ends at 19.
  EXPECT_THAT(load("z\ta\n", "", 9),
              ThrowsMessage<ConvertError>(HasSubstr("outside the vocabulary of 20")));
  EXPECT_THAT(
      [&] { LoadParallelCorpus(directory.Write("t", "a\tb\n"), "", {}, 9, Config(), nullptr); },
      ThrowsMessage<ConvertError>(HasSubstr("no tokenizer")));
}

// Each pair once, none over the positions, and rows of similar length together: little padding.
TEST(PlanEpoch, BucketsPairsByLength) {
  Corpus corpus;
  for (int i = 0; i < 400; ++i) {
    corpus.documents.emplace_back(static_cast<size_t>(2 + i * 7 % 40), 1);
    corpus.sources.emplace_back(static_cast<size_t>(1 + i * 11 % 30), 1);
  }
  const auto windows = CutWindows(corpus, 5);
  ASSERT_EQ(windows.size(), 400U);
  std::multiset<int32_t> seen;
  int64_t padded = 0, positions = 0;
  for (const BatchPlan& batch : PlanEpoch(windows, 5, 600, 3, 0)) {
    const auto rows = static_cast<int64_t>(batch.windows.size());
    EXPECT_LE(rows * (batch.length + batch.source_length), 600);
    padded += rows * batch.length;
    for (const Window& window : batch.windows) {
      const auto pair = static_cast<size_t>(window.document);
      seen.insert(window.document);
      positions += window.length;
      EXPECT_EQ(window.length, static_cast<int64_t>(corpus.documents[pair].size()) - 1);
      EXPECT_EQ(window.source_length, static_cast<int64_t>(corpus.sources[pair].size()));
      EXPECT_LE(window.length, batch.length);
      EXPECT_LE(window.source_length, batch.source_length);
    }
  }
  EXPECT_EQ(seen.size(), 400U);
  EXPECT_EQ(std::set<int32_t>(seen.begin(), seen.end()).size(), 400U);
  EXPECT_LT(static_cast<double>(padded), 1.15 * static_cast<double>(positions));
}

}  // namespace
}  // namespace t2r::convert

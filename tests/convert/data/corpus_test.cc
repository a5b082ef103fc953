#include "convert/data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "convert/error.h"
#include "testing/temporary_directory.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A byte is its own id, plus 3; BOS is 1 where it is added.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(bool adds_bos) : adds_bos_(adds_bos) {}
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) const override {
    if (text.find('\xff') != std::string::npos) {
      return absl::InvalidArgumentError("invalid UTF-8 at byte 2");
    }
    std::vector<int32_t> ids;
    if (adds_bos_ && add_special_tokens) ids.push_back(1);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + 3);
    return ids;
  }
  std::string_view TokenBytes(int32_t, bool) const override { return ""; }
  bool IsSpecial(int32_t id) const override { return id < 3; }
  int vocab_size() const override { return 259; }
  std::optional<int32_t> bos_id() const override { return 1; }
  std::optional<int32_t> eos_id() const override { return 2; }
  bool adds_bos() const override { return adds_bos_; }

 private:
  bool adds_bos_;
};

ModelConfig Config(int vocab_size) {
  ModelConfig config;
  config.vocab_size = vocab_size;
  return config;
}

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConvertError& error) {
    return error.what();
  }
  return "no error";
}

TEST(SplitDocuments, CutsAtSeparatorLinesAndStrips) {
  EXPECT_THAT(SplitDocuments(" a\nb \n<x>\n\n<x>\n  c<x>\nd\n", "<x>"),
              ElementsAre("a\nb", "c<x>\nd"));
  EXPECT_THAT(SplitDocuments("a\n\nb\n", ""), ElementsAre("a\n\nb"));
  EXPECT_THAT(SplitDocuments("a\r\n\r\nb\r\n<x>\r\nc\r\r\nd", "<x>"),
              ElementsAre("a\n\nb", "c\r\nd"));
  EXPECT_THAT(SplitDocuments(" \n\t\n", "<x>"), ElementsAre());
}

TEST(LoadCorpus, FollowsTheTokenizerAboutBos) {
  const TemporaryDirectory directory;
  const std::string path = directory.Write("text", "ab\n--\nc\n");
  CorpusOptions options;
  options.separator = "--";
  ModelConfig config = Config(259);
  config.bos_token_id = 2;
  const ByteTokenizer with_bos(true), without(false);
  Corpus corpus = LoadCorpus(path, options, config, &with_bos);
  EXPECT_THAT(corpus.documents,
              ElementsAre(ElementsAre(1, 'a' + 3, 'b' + 3), ElementsAre(1, 'c' + 3)));
  EXPECT_EQ(corpus.bos, 1);
  // It adds none: the first token of a document is given, and "c" has nothing to predict.
  corpus = LoadCorpus(path, options, config, &without);
  EXPECT_THAT(corpus.documents, ElementsAre(ElementsAre('a' + 3, 'b' + 3)));
  EXPECT_EQ(corpus.skipped, 1);
  EXPECT_EQ(corpus.bos, std::nullopt);
}

TEST(LoadCorpus, PutsBosWhereItIsAskedFor) {
  const TemporaryDirectory directory;
  const std::string path = directory.Write("text", "ab\n--\nc\n");
  CorpusOptions options;
  options.separator = "--";
  options.bos = true;
  options.max_tokens_per_document = 2;
  const ByteTokenizer with_bos(true), without(false);
  for (const ByteTokenizer* tokenizer : {&with_bos, &without}) {
    const Corpus corpus = LoadCorpus(path, options, Config(259), tokenizer);
    EXPECT_THAT(corpus.documents, ElementsAre(ElementsAre(1, 'a' + 3), ElementsAre(1, 'c' + 3)));
    EXPECT_EQ(corpus.bos, 1);
  }
  // Of files of ids: the configuration's, if it has one.
  options.ids = true;
  const std::string ids = directory.Write("ids", "5 6");
  ModelConfig config = Config(9);
  EXPECT_THAT(ErrorOf([&] { LoadCorpus(ids, options, config, nullptr); }), HasSubstr("--bos"));
  config.bos_token_id = 2;
  EXPECT_THAT(LoadCorpus(ids, options, config, nullptr).documents, ElementsAre(ElementsAre(2, 5)));
}

TEST(Concatenated, CutsRowsOfAllDocuments) {
  Corpus corpus;
  corpus.bos = 1;
  corpus.documents = {{1, 2, 3}, {1, 4}, {1, 5, 6, 7, 8}};
  const Corpus rows = Concatenated(corpus, 4);
  EXPECT_THAT(rows.documents,
              ElementsAre(ElementsAre(1, 2, 3, 1), ElementsAre(4, 1, 5, 6), ElementsAre(7, 8)));
  EXPECT_EQ(rows.tokens, 10);
  EXPECT_EQ(rows.bos, 1);
  // A single id at the end has nothing to predict.
  EXPECT_THAT(Concatenated(corpus, 3).documents,
              ElementsAre(ElementsAre(1, 2, 3), ElementsAre(1, 4, 1), ElementsAre(5, 6, 7)));
}

TEST(LoadCorpus, TakesFirstDocumentsAndCutsThem) {
  const TemporaryDirectory directory;
  CorpusOptions options;
  options.separator = "--";
  options.documents = 1;
  options.max_tokens_per_document = 3;
  const ByteTokenizer tokenizer(true);
  const Corpus corpus =
      LoadCorpus(directory.Write("text", "abcdef\n--\nghi"), options, Config(259), &tokenizer);
  EXPECT_THAT(corpus.documents, ElementsAre(ElementsAre(1, 'a' + 3, 'b' + 3)));
  EXPECT_EQ(corpus.tokens, 3);
}

TEST(LoadCorpus, ReadsIds) {
  const TemporaryDirectory directory;
  CorpusOptions options;
  options.ids = true;
  options.separator = "--";
  EXPECT_THAT(LoadCorpus(directory.Write("ids", "0 1 2\n2 1\n--\n1 1"), options, Config(3), nullptr)
                  .documents,
              ElementsAre(ElementsAre(0, 1, 2, 2, 1), ElementsAre(1, 1)));
}

TEST(LoadCorpus, RefusesBadData) {
  const TemporaryDirectory directory;
  const ByteTokenizer tokenizer(true);
  CorpusOptions text, ids;
  ids.ids = true;
  const auto error = [&](const std::string& content, const CorpusOptions& options, int vocabulary) {
    const std::string path = directory.Write("data", content);
    return ErrorOf([&] { LoadCorpus(path, options, Config(vocabulary), &tokenizer); });
  };
  EXPECT_THAT(error("", text, 259), HasSubstr("empty"));
  EXPECT_THAT(error(" \n \n", text, 259), HasSubstr("no documents"));
  EXPECT_THAT(error("ab\xff", text, 259), HasSubstr("byte 2"));
  EXPECT_THAT(error("ab", text, 50), HasSubstr("outside the model's vocabulary of 50"));
  EXPECT_THAT(error("1 2 7", ids, 7), HasSubstr("token id 7 is outside the vocabulary of 7"));
  EXPECT_THAT(error("1 two", ids, 7), HasSubstr("'two' is not a token id"));
  EXPECT_THAT(error("5", ids, 7), HasSubstr("nothing to predict"));
  EXPECT_THAT(ErrorOf([&] { LoadCorpus(directory / "absent", text, Config(9), &tokenizer); }),
              HasSubstr("absent: cannot be read"));
  EXPECT_THAT(ErrorOf([&] { LoadCorpus(directory.Write("t", "ab"), text, Config(9), nullptr); }),
              HasSubstr("no tokenizer"));
}

Corpus CorpusOf(const std::vector<int64_t>& lengths) {
  Corpus corpus;
  for (const int64_t length : lengths) {
    corpus.documents.emplace_back(static_cast<size_t>(length), 5);
    corpus.tokens += length;
  }
  return corpus;
}

TEST(CutWindows, PredictsEachTokenOnce) {
  const auto windows = CutWindows(CorpusOf({2, 9, 8, 20}), 7);
  std::map<int32_t, std::vector<std::pair<int64_t, int64_t>>> of;
  for (const Window& window : windows) of[window.document].push_back({window.start, window.length});
  EXPECT_THAT(of[0], ElementsAre(std::pair(0, 1)));
  EXPECT_THAT(of[1], ElementsAre(std::pair(0, 7), std::pair(7, 1)));
  EXPECT_THAT(of[2], ElementsAre(std::pair(0, 7)));
  EXPECT_THAT(of[3], ElementsAre(std::pair(0, 7), std::pair(7, 7), std::pair(14, 5)));
}

TEST(PlanEpoch, CoversEveryWindowOnceWithinTheBudgetAndDependsOnSeedAndEpochOnly) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 3000; ++i) lengths.push_back(2 + (i * 37) % 150);
  const auto windows = CutWindows(CorpusOf(lengths), 100);
  const auto plan = PlanEpoch(windows, 100, 1000, /*seed=*/3, /*epoch=*/0);
  std::map<std::pair<int32_t, int64_t>, int> seen;
  for (const BatchPlan& batch : plan) {
    ASSERT_FALSE(batch.windows.empty());
    EXPECT_LE(static_cast<int64_t>(batch.windows.size()) * batch.length, 1000);
    EXPECT_LE(batch.length, 100);
    for (const Window& window : batch.windows) {
      EXPECT_LE(window.length, batch.length);
      ++seen[{window.document, window.start}];
    }
  }
  EXPECT_EQ(seen.size(), windows.size());
  for (const auto& [window, times] : seen) EXPECT_EQ(times, 1);

  const auto order = [](const std::vector<BatchPlan>& batches) {
    std::vector<std::pair<int32_t, int64_t>> all;
    for (const auto& batch : batches) {
      for (const auto& window : batch.windows) all.push_back({window.document, window.start});
    }
    return all;
  };
  EXPECT_EQ(order(plan), order(PlanEpoch(windows, 100, 1000, 3, 0)));
  EXPECT_NE(order(plan), order(PlanEpoch(windows, 100, 1000, 3, 1)));
  EXPECT_NE(order(plan), order(PlanEpoch(windows, 100, 1000, 4, 0)));
}

}  // namespace
}  // namespace t2r::convert

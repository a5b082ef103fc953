#include "convert/eval/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "convert/error.h"
#include "engine/model/architectures.h"

namespace t2r::convert {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModelConfig Config(int64_t positions, bool stored = false) {
  ModelConfig config;
  config.architecture = stored ? &kGpt2Architecture : &kLlamaArchitecture;
  config.rotary_dim = stored ? 0 : 8;
  config.max_position_embeddings = positions;
  return config;
}

std::string ErrorOf(const WindowOptions& options, const ModelConfig& config) {
  try {
    WithDefaults(options, config);
  } catch (const ConvertError& error) {
    return error.what();
  }
  return "no error";
}

TEST(EvaluationWindows, DefaultToTheModelsPositionsUpTo2048) {
  const auto defaults = [](int64_t positions) { return WithDefaults({}, Config(positions)); };
  EXPECT_EQ(defaults(512).window, 512);
  EXPECT_EQ(defaults(512).stride, 511);
  EXPECT_EQ(defaults(8192).window, 2048);
  EXPECT_EQ(WithDefaults({100, 0}, Config(512)).stride, 99);
  EXPECT_EQ(WithDefaults({4096, 4096}, Config(512)).window, 4096);
  EXPECT_EQ(WithDefaults({33, 0}, Config(32, true)).window, 33);
  EXPECT_EQ(Describe(defaults(512)), "windows of 512 tokens, stride 511");
}

TEST(EvaluationWindows, RefuseWhatCannotBe) {
  EXPECT_THAT(ErrorOf({1, 0}, Config(512)), HasSubstr("2 or more"));
  EXPECT_THAT(ErrorOf({-3, 0}, Config(512)), HasSubstr("-3 tokens"));
  EXPECT_THAT(ErrorOf({8, 9}, Config(512)), HasSubstr("1 to the window's 8"));
  EXPECT_THAT(ErrorOf({8, -1}, Config(512)), HasSubstr("stride is -1"));
  EXPECT_THAT(ErrorOf({34, 0}, Config(32, true)), HasSubstr("at most 33"));
  ModelConfig pairs = Config(32);
  pairs.encoder_decoder.emplace();
  EXPECT_THAT(ErrorOf({8, 0}, pairs), HasSubstr("whole"));
  EXPECT_EQ(ErrorOf({}, pairs), "no error");
}

// As (start, length, context).
std::vector<std::vector<int64_t>> Cut(int64_t document, const WindowOptions& options) {
  Corpus corpus;
  corpus.documents.emplace_back(static_cast<size_t>(document), 5);
  std::vector<std::vector<int64_t>> windows;
  for (const Window& window : CutEvaluation(corpus, options)) {
    windows.push_back({window.start, window.length, window.context});
  }
  return windows;
}

TEST(EvaluationWindows, SlideAsTheGuideDescribes) {
  // max_length 8, stride 4: [0, 8), [4, 12), [8, 13), of which 8, 4 and 1 tokens are new.
  EXPECT_THAT(Cut(13, {8, 4}),
              ElementsAre(ElementsAre(0, 7, 0), ElementsAre(4, 7, 3), ElementsAre(8, 4, 3)));
  EXPECT_THAT(Cut(8, {8, 4}), ElementsAre(ElementsAre(0, 7, 0)));
  EXPECT_THAT(Cut(5, {8, 4}), ElementsAre(ElementsAre(0, 4, 0)));
  // Disjoint predictions, and the guide's own disjoint windows, which lose tokens 8 and 16.
  EXPECT_THAT(Cut(16, {8, 7}),
              ElementsAre(ElementsAre(0, 7, 0), ElementsAre(7, 7, 0), ElementsAre(14, 1, 0)));
  EXPECT_THAT(Cut(17, {8, 8}), ElementsAre(ElementsAre(0, 7, 0), ElementsAre(8, 7, 0)));
}

TEST(EvaluationWindows, CountEveryTokenButADocumentsFirstOnce) {
  for (const int64_t window : {2, 3, 7, 16}) {
    for (int64_t stride = 1; stride < window; ++stride) {
      for (int64_t size = 2; size < 40; ++size) {
        int64_t next = 1;
        for (const auto& cut : Cut(size, {window, stride})) {
          EXPECT_LT(cut[1], window);
          EXPECT_EQ(cut[0] + cut[2] + 1, next) << window << " " << stride << " " << size;
          next = cut[0] + cut[1] + 1;
          EXPECT_EQ(cut[0] % stride, 0);
        }
        EXPECT_EQ(next, size) << window << " " << stride;
      }
    }
  }
}

TEST(EvaluationWindows, LeavePairsWhole) {
  Corpus corpus;
  corpus.documents = {{1, 2, 3}, {4, 5}};
  corpus.sources = {{7}, {8, 9, 7, 7}};
  const auto windows = CutEvaluation(corpus, {});
  ASSERT_EQ(windows.size(), 2U);
  EXPECT_EQ(windows[0].length, 2);
  EXPECT_EQ(windows[1].source_length, 4);
}

}  // namespace
}  // namespace t2r::convert

// Scores of windows by a real engine, against the float64 reference, and the known values.
#include "convert/eval/score.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/error.h"
#include "convert/eval/evaluation.h"
#include "convert/eval/windows.h"
#include "convert/status.h"
#include "engine/tokenizer/tokenizer.h"
#include "testing/model_directory.h"
#include "testing/reference_model.h"
#include "testing/shared_data.h"

namespace t2r::convert {
namespace {

using t2r::testing::ConfigOf;
using t2r::testing::LogSoftmax;
using t2r::testing::ModelSpec;
using t2r::testing::RandomWeights;
using t2r::testing::ReferenceLogits;
using t2r::testing::SharedData;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

Corpus SomeCorpus(int vocab) {
  Corpus corpus;
  for (const int size : {2, 70, 3, 33, 34, 9, 55}) {
    auto& ids = corpus.documents.emplace_back();
    for (int t = 0; t < size; ++t) ids.push_back((t * t * 7 + t * (size + 13) + 3) % vocab);
  }
  return corpus;
}

ScoringRoom RoomOf(const std::vector<Window>& windows) {
  ScoringRoom room;
  for (const Window& window : windows) room.Add(window.length, window.source_length);
  return room;
}

class ScoreTest : public ::testing::Test {
 protected:
  explicit ScoreTest(bool linear = false) {
    spec_.linear = {linear, false, linear};
    weights_ = RandomWeights(spec_, 17);
    directory_.Write("config.json", ConfigOf(spec_));
    WriteWeights(directory_, weights_);
  }

  std::unique_ptr<Engine> Load(const ScoringRoom& room) const {
    ScoreOptions options;
    options.backend = "cpu";
    options.threads = 2;
    return LoadScoringEngine(directory_.path(), room, options);
  }

  ModelSpec spec_;
  t2r::testing::Tensors weights_;
  t2r::testing::TemporaryDirectory directory_;
};

class LinearScoreTest : public ScoreTest {
 protected:
  LinearScoreTest() : ScoreTest(true) {}
};

// Every prediction that counts, by (document, token): −1e-4 … 1e-4 beside what float64 gives from
// the window's start, and there once.
void ExpectReference(const ModelSpec& spec, const t2r::testing::Tensors& weights,
                     Executor* executor, const Corpus& corpus, const WindowOptions& options) {
  const auto windows = CutEvaluation(corpus, options);
  std::map<std::pair<int32_t, int64_t>, double> scores;
  ScoreWindows(
      executor, corpus, windows,
      [&](const Window& window, std::span<const float> logprobs) {
        ASSERT_EQ(static_cast<int64_t>(logprobs.size()), window.length - window.context);
        const auto& document = corpus.documents[static_cast<size_t>(window.document)];
        const std::vector<int32_t> fed(document.begin() + window.start,
                                       document.begin() + window.start + window.length);
        const auto logits = ReferenceLogits(spec, weights, fed);
        for (size_t i = 0; i < logprobs.size(); ++i) {
          const auto at = static_cast<size_t>(window.context) + i;
          const int64_t token = window.start + static_cast<int64_t>(at) + 1;
          const double expected =
              LogSoftmax(logits[at])[static_cast<size_t>(document[static_cast<size_t>(token)])];
          EXPECT_NEAR(logprobs[i], expected, 1e-4);
          EXPECT_TRUE(scores.emplace(std::pair(window.document, token), logprobs[i]).second);
        }
      },
      nullptr);
  size_t predicted = 0;
  for (const auto& document : corpus.documents) predicted += document.size() - 1;
  EXPECT_EQ(scores.size(), predicted);
}

TEST_F(ScoreTest, AgreesWithTheReferenceInWindows) {
  const Corpus corpus = SomeCorpus(spec_.vocab);
  for (const WindowOptions options : {WindowOptions{16, 5}, {256, 255}, {24, 23}}) {
    const auto engine = Load(RoomOf(CutEvaluation(corpus, options)));
    ExpectReference(spec_, weights_, engine->executor.get(), corpus, options);
  }
}

TEST_F(LinearScoreTest, AgreesWithTheReferenceInWindows) {
  const Corpus corpus = SomeCorpus(spec_.vocab);
  const auto engine = Load(RoomOf(CutEvaluation(corpus, {16, 5})));
  ExpectReference(spec_, weights_, engine->executor.get(), corpus, {16, 5});
}

// A window beyond the model's positions, as evaluation of a document whole needs it, and one that
// is longer than a step.
TEST_F(LinearScoreTest, GoesBeyondTheModelsPositions) {
  Corpus corpus;
  auto& ids = corpus.documents.emplace_back();
  for (int t = 0; t < 600; ++t) ids.push_back((t * 31 + t / 7) % spec_.vocab);
  const auto engine = Load(RoomOf(CutEvaluation(corpus, {1024, 1023})));
  ExpectReference(spec_, weights_, engine->executor.get(), corpus, {1024, 1023});
}

// What is scored beside a window, and in how many steps, changes nothing.
TEST_F(ScoreTest, GivesTheSameBitsInACrowd) {
  const Corpus corpus = SomeCorpus(spec_.vocab);
  const auto windows = CutEvaluation(corpus, {16, 5});
  std::map<std::pair<int32_t, int64_t>, std::vector<float>> crowd;
  const auto engine = Load(RoomOf(windows));
  ScoreWindows(
      engine->executor.get(), corpus, windows,
      [&](const Window& window, std::span<const float> logprobs) {
        crowd[{window.document, window.start}].assign(logprobs.begin(), logprobs.end());
      },
      nullptr);
  for (const Window& one : windows) {
    ScoreWindows(
        engine->executor.get(), corpus, std::span(&one, 1),
        [&](const Window& window, std::span<const float> logprobs) {
          const std::vector<float> alone(logprobs.begin(), logprobs.end());
          EXPECT_EQ(alone, (crowd[{window.document, window.start}]));
        },
        nullptr);
  }
}

// Key/value pages are for a few windows, however long the text is.
TEST_F(ScoreTest, TakesMemoryForWindowsNotForDocuments) {
  const auto bytes = [&](int64_t tokens) {
    Corpus corpus;
    corpus.documents.emplace_back(static_cast<size_t>(tokens), 1);
    return Load(RoomOf(CutEvaluation(corpus, {64, 32})))->memory.kv_bytes();
  };
  EXPECT_EQ(bytes(96), bytes(96000));
}

TEST_F(ScoreTest, RefusesAWindowThatHasNoRoom) {
  ScoringRoom room;
  room.Add(16, 0);
  const auto engine = Load(room);
  const Corpus corpus = SomeCorpus(spec_.vocab);
  const auto windows = CutEvaluation(corpus, {64, 63});
  EXPECT_THAT(
      [&] {
        ScoreWindows(
            engine->executor.get(), corpus, windows, [](const Window&, std::span<const float>) {},
            nullptr);
      },
      ThrowsMessage<ConvertError>(HasSubstr("no room for a window of 63 positions")));
}

// Nats a token by the converter's own way from text to figures.
Evaluation Known(const std::string& model, const std::string& text, CorpusOptions options,
                 const WindowOptions& windows) {
  const ModelConfig config = Unwrap(LoadModelConfig(model));
  const auto tokenizer = Unwrap(LoadTokenizer(model));
  options.separator = "<|endoftext|>";
  const Corpus corpus = LoadCorpus(text, options, config, tokenizer.get());
  const auto cut = CutEvaluation(corpus, WithDefaults(windows, config));
  const auto engine = LoadScoringEngine(model, RoomOf(cut), {"cpu", 0, "auto"});
  EXPECT_THAT(engine->warnings, IsEmpty());
  Evaluation result;
  result.documents = static_cast<int64_t>(corpus.documents.size());
  ScoreWindows(
      engine->executor.get(), corpus, cut,
      [&](const Window&, std::span<const float> logprobs) {
        for (const float logprob : logprobs) result.nats -= logprob;
        result.predictions += static_cast<int64_t>(logprobs.size());
      },
      nullptr);
  return result;
}

TEST(KnownLosses, Stories260KCutAndUncut) {
  const std::string model = SharedData("stories260K");
  const std::string text = SharedData("tinystories/valid.txt");
  if (model.empty() || text.empty()) GTEST_SKIP() << "needs shared data: stories260K, tinystories";
  CorpusOptions options;
  options.documents = 150;
  const Evaluation uncut = Known(model, text, options, {4096, 0});
  EXPECT_EQ(uncut.predictions, 63110);
  EXPECT_NEAR(uncut.nats_per_token(), 1.42531, 5e-6);
  options.max_tokens_per_document = 512;
  const Evaluation cut = Known(model, text, options, {});
  EXPECT_EQ(cut.predictions, 55777);
  EXPECT_EQ(cut.documents, 150);
  EXPECT_NEAR(cut.nats_per_token(), 1.40256, 5e-6);
}

// The directory that `t2r-convert import-gguf` makes of SmolLM2-135M-Instruct's Q4_1 file, where
// T2R_SMOLLM2 names it.
TEST(KnownLosses, SmolLm2WithAndWithoutBos) {
  const char* const model = std::getenv("T2R_SMOLLM2");
  const std::string text = SharedData("wikitext-2-raw/articles.txt");
  if (model == nullptr || text.empty()) {
    GTEST_SKIP() << "needs T2R_SMOLLM2, a directory of SmolLM2-135M-Instruct, and the shared data: "
                    "wikitext-2-raw";
  }
  CorpusOptions options;
  options.documents = 20;
  options.max_tokens_per_document = 512;
  const Evaluation plain = Known(model, text, options, {});
  EXPECT_EQ(plain.predictions, 10220);
  EXPECT_NEAR(plain.nats_per_token(), 3.107633, 1e-5);
  options.bos = true;
  const Evaluation bos = Known(model, text, options, {});
  EXPECT_EQ(bos.predictions, 10220);
  EXPECT_NEAR(bos.nats_per_token(), 3.118080, 1e-5);
}

}  // namespace
}  // namespace t2r::convert

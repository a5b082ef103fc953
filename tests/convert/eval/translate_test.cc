#include "convert/eval/translate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/error.h"
#include "convert/eval/metrics.h"
#include "convert/status.h"
#include "engine/model/architectures.h"
#include "testing/shared_data.h"

namespace t2r::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

constexpr int32_t kStart = 1, kEos = 2;

// "Translates" a source token by token, adding 10 to each, then says EOS; or never ends, where the
// source starts with 99. Checks what Executor asks of its caller.
class EchoExecutor : public Executor {
 public:
  explicit EchoExecutor(int slots) {
    limits_.slots = slots;
    limits_.max_step_tokens = 12;
    limits_.vocab_size = 200;
    limits_.position_limit = 30;
    limits_.max_source = 30;
  }
  const ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(const SessionSize& size, int count) const override {
    EXPECT_LE(size.positions, limits_.position_limit);
    return static_cast<int>(open_.size()) + count <= limits_.slots;
  }
  int Open(const SessionSize& size, const SamplingParams& sampling) override {
    EXPECT_EQ(sampling.temperature, 0.0F);
    int slot = 0;
    while (open_.contains(slot)) ++slot;
    open_[slot].positions = size.positions;
    most_ = std::max(most_, open_.size());
    return slot;
  }
  void Fork(int, int) override { FAIL() << "nothing is forked here"; }
  void Close(int slot) override { EXPECT_EQ(open_.erase(slot), 1U); }
  void Launch(std::span<const ScheduledChunk> chunks) override {
    size_t sources = 0;
    std::set<int> seen;
    results_.clear();
    for (const ScheduledChunk& chunk : chunks) {
      EXPECT_TRUE(seen.insert(chunk.slot).second);
      Slot& slot = open_.at(chunk.slot);
      EXPECT_EQ(chunk.position, slot.consumed);
      EXPECT_LT(chunk.position, slot.positions);
      EXPECT_EQ(chunk.source.empty(), chunk.position > 0);
      sources += chunk.source.size();
      if (chunk.position == 0) {
        slot.source.assign(chunk.source.begin(), chunk.source.end());
        EXPECT_THAT(chunk.tokens, ElementsAre(kStart));
      }
      const auto at = static_cast<size_t>(slot.consumed++);
      ChunkResult& result = results_.emplace_back();
      result.sampled.token = slot.source.front() == 99 ? 7
                             : at < slot.source.size() ? slot.source[at] + 10
                                                       : kEos;
    }
    EXPECT_LE(chunks.size(), static_cast<size_t>(limits_.max_step_tokens));
    EXPECT_LE(sources, static_cast<size_t>(limits_.max_step_tokens));
  }
  void Wait(std::vector<ChunkResult>* results) override { *results = results_; }

  size_t open() const { return open_.size(); }
  size_t most() const { return most_; }

 private:
  struct Slot {
    std::vector<int32_t> source;
    int64_t consumed = 0, positions = 0;
  };
  ExecutorLimits limits_;
  std::map<int, Slot> open_;
  std::vector<ChunkResult> results_;
  size_t most_ = 0;
};

ModelConfig Config() {
  ModelConfig config;
  config.architecture = &kMarianArchitecture;
  config.eos_token_ids = {kEos};
  config.encoder_decoder.emplace().decoder_start_token_id = kStart;
  return config;
}

TEST(Translate, RunsEverySourceThroughAFewSlots) {
  EchoExecutor executor(3);
  std::vector<std::vector<int32_t>> sources;
  int64_t tokens = 0;
  for (int32_t i = 0; i < 20; ++i) {
    auto& source = sources.emplace_back();
    for (int32_t t = 0; t < i % 8; ++t) source.push_back(20 + i + t);
    tokens += source.empty() ? 0 : static_cast<int64_t>(source.size()) + 1;
  }
  const Translations result = Translate(&executor, Config(), sources, 0, nullptr);
  ASSERT_EQ(result.outputs.size(), sources.size());
  for (size_t i = 0; i < sources.size(); ++i) {
    std::vector<int32_t> expected;
    for (const int32_t id : sources[i]) expected.push_back(id + 10);
    EXPECT_EQ(result.outputs[i].ids, expected) << i;
    EXPECT_TRUE(result.outputs[i].ended) << i;
  }
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_EQ(executor.open(), 0U);
  EXPECT_EQ(executor.most(), 3U);
}

TEST(Translate, CutsWhatDoesNotEnd) {
  EchoExecutor executor(4);
  const std::vector<std::vector<int32_t>> sources{{99, 5}, {30}, std::vector<int32_t>(12, 99)};
  Translations result = Translate(&executor, Config(), sources, 0, nullptr);
  EXPECT_EQ(result.outputs[0].ids.size(), 14U);  // 2 · 2 + 10
  EXPECT_FALSE(result.outputs[0].ended);
  EXPECT_TRUE(result.outputs[1].ended);
  EXPECT_EQ(result.outputs[2].ids.size(), 30U);  // the model's positions
  result = Translate(&executor, Config(), sources, 3, nullptr);
  EXPECT_EQ(result.outputs[0].ids.size(), 3U);
  EXPECT_THAT(result.outputs[1].ids, ElementsAre(40));
  EXPECT_EQ(executor.open(), 0U);
}

TEST(Translate, NamesASourceThatIsTooLong) {
  EchoExecutor executor(4);
  EXPECT_THAT(
      [&] {
        Translate(&executor, Config(), {{3}, std::vector<int32_t>(13, 4)}, 0, nullptr);
      },
      ThrowsMessage<ConvertError>(HasSubstr("source 2 has 13 tokens; at most 12")));
}

TEST(Translate, OfNothingIsNothing) {
  EchoExecutor executor(4);
  EXPECT_THAT(Translate(&executor, Config(), {}, 0, nullptr).outputs, IsEmpty());
  const auto result = Translate(&executor, Config(), {{}, {}}, 0, nullptr);
  EXPECT_THAT(result.outputs[1].ids, IsEmpty());
  EXPECT_EQ(result.tokens, 0);
}

// A real model's known figures; skipped where the shared data is absent.
TEST(TranslateLines, ReachesArensKnownErrorRates) {
  const std::string model = t2r::testing::SharedData("aren");
  const std::string test = t2r::testing::SharedData("ar2en/test.tsv");
  if (model.empty() || test.empty()) GTEST_SKIP() << "needs T2R_DATA: aren, ar2en";
  const auto tokenizer = Unwrap(LoadTokenizer(model));
  std::vector<std::string> sources, references;
  for (auto& [source, target] : ReadPairs(test, "")) {
    sources.push_back(source);
    references.push_back(target);
  }
  TranslateOptions options;
  options.threads = 1;
  const TranslatedLines result = TranslateLines(model, *tokenizer, sources, options, nullptr);
  EXPECT_NEAR(CharacterErrorRate(result.texts, references), 0.2259, 5e-5);
  EXPECT_NEAR(WordErrorRate(result.texts, references), 0.7792, 5e-5);
  EXPECT_EQ(result.cut, 0);
}

}  // namespace
}  // namespace t2r::convert

#include "convert/eval/recall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int kVocabulary = 400;
constexpr int32_t kBos = 399;

// Remembers its last `memory` tokens and repeats what followed the latest of them that equals the
// present one: an induction head. Sure of that (log p −0.1); without one, of nothing (−5). Checks
// what Executor asks of its caller.
class InductionExecutor : public Executor {
 public:
  explicit InductionExecutor(size_t memory, int slots = 3) : memory_(memory) {
    limits_.slots = slots;
    limits_.max_step_tokens = 50;
    limits_.vocab_size = kVocabulary;
  }
  const ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(const SessionSize&, int count) const override {
    return static_cast<int>(open_.size()) + count <= limits_.slots;
  }
  int Open(const SessionSize& size, const SamplingParams& sampling) override {
    EXPECT_EQ(sampling.temperature, 0.0F);
    int slot = 0;
    while (open_.contains(slot)) ++slot;
    open_[slot];
    longest_ = std::max(longest_, size.positions);
    return slot;
  }
  void Fork(int, int) override { FAIL() << "nothing is forked here"; }
  void Close(int slot) override { EXPECT_EQ(open_.erase(slot), 1U); }
  void Launch(std::span<const ScheduledChunk> chunks) override {
    results_.clear();
    int64_t rows = 0;
    for (const ScheduledChunk& chunk : chunks) {
      std::vector<int32_t>& seen = open_.at(chunk.slot);
      EXPECT_EQ(chunk.position, static_cast<int64_t>(seen.size()));
      if (seen.empty()) firsts_.push_back(chunk.tokens[0]);
      rows += static_cast<int64_t>(chunk.tokens.size());
      seen.insert(seen.end(), chunk.tokens.begin(), chunk.tokens.end());
      ChunkResult& result = results_.emplace_back();
      if (!chunk.sample) continue;
      EXPECT_EQ(chunk.tokens.size(), 1U);
      result.sampled.token = Next(seen);
      result.scores = {result.sampled.token == chunk.targets[0] ? -0.1F : -5.0F};
    }
    EXPECT_LE(rows, limits_.max_step_tokens);
  }
  void Wait(std::vector<ChunkResult>* results) override { *results = results_; }

  size_t open() const { return open_.size(); }
  int64_t longest() const { return longest_; }
  const std::vector<int32_t>& firsts() const { return firsts_; }

 private:
  int32_t Next(const std::vector<int32_t>& seen) const {
    const size_t oldest = seen.size() > memory_ ? seen.size() - memory_ : 0;
    for (size_t i = seen.size() - 1; i-- > oldest;) {
      if (seen[i] == seen.back()) return seen[i + 1];
    }
    return -1;
  }

  size_t memory_;
  ExecutorLimits limits_;
  std::map<int, std::vector<int32_t>> open_;
  std::vector<ChunkResult> results_;
  std::vector<int32_t> firsts_;
  int64_t longest_ = 0;
};

// Ids that do not repeat within 300.
Corpus CountingCorpus() {
  Corpus corpus;
  corpus.bos = kBos;
  for (int32_t i = 0; i < 4; ++i) {
    auto& ids = corpus.documents.emplace_back();
    ids.push_back(kBos);
    for (int32_t t = 0; t < 75; ++t) ids.push_back(i * 75 + t);
  }
  return corpus;
}

RecallOptions Distances(std::vector<int64_t> distances) {
  RecallOptions options;
  options.distances = std::move(distances);
  options.probes = 6;
  return options;
}

TEST(Recall, ShowsWhereMemoryEnds) {
  InductionExecutor executor(/*memory=*/100);
  const auto results =
      MeasureRecall(&executor, CountingCorpus(), Distances({40, 80, 200}), nullptr);
  ASSERT_EQ(results.size(), 6U);
  EXPECT_EQ(executor.open(), 0U);
  EXPECT_THAT(executor.firsts(), Each(kBos));
  EXPECT_LE(executor.longest(), ProbeTokens(200) - 1);
  for (const RecallResult& result : results) {
    const bool copying = result.kind == "copying";
    EXPECT_EQ(result.asked, copying ? 6 * 24 : 6 * 8);
    // The random tokens of the pairs may stand in the text too, and be found there.
    const double least = result.distance < 100 ? (copying ? 1.0 : 0.6) : 0.0;
    EXPECT_GE(result.found, least) << result.kind << result.distance;
    EXPECT_LE(result.found, result.distance < 100 ? 1.0 : 0.1) << result.kind << result.distance;
    EXPECT_NEAR(result.nats, 0.1 * result.found + 5 * (1 - result.found), 1e-5);
    EXPECT_LE(result.control_found, copying ? 0.35 : 0.1) << result.kind << result.distance;
    EXPECT_NEAR(result.control_nats, 0.1 * result.control_found + 5 * (1 - result.control_found),
                1e-5);
  }
}

TEST(Recall, RepeatsItself) {
  InductionExecutor first(60), second(60, /*slots=*/1);
  const auto options = Distances({50});
  const auto a = MeasureRecall(&first, CountingCorpus(), options, nullptr);
  const auto b = MeasureRecall(&second, CountingCorpus(), options, nullptr);
  EXPECT_EQ(Table(a), Table(b));
  EXPECT_THAT(Table(a), HasSubstr("\ncopying           50 "));
}

TEST(Recall, NeedsEnoughText) {
  InductionExecutor executor(60);
  Corpus corpus;
  corpus.documents = {std::vector<int32_t>(100, 3)};
  EXPECT_THAT([&] { MeasureRecall(&executor, corpus, Distances({200}), nullptr); },
              ThrowsMessage<ConvertError>(HasSubstr("has 100 tokens; a recall probe needs 200")));
  EXPECT_THAT([&] { MeasureRecall(&executor, corpus, Distances({40}), nullptr); },
              ThrowsMessage<ConvertError>(HasSubstr("1 different tokens")));
  RecallOptions none = Distances({40});
  none.probes = 0;
  EXPECT_THAT([&] { MeasureRecall(&executor, CountingCorpus(), none, nullptr); },
              ThrowsMessage<ConvertError>(HasSubstr("--recall-probes")));
}

TEST(Recall, ReadsDistances) {
  EXPECT_THAT(ParseDistances("auto", 512), ElementsAre(32, 64, 128, 256));
  EXPECT_THAT(ParseDistances("48,300", 512), ElementsAre(48, 300));
  EXPECT_THAT([] { ParseDistances("auto", 64); },
              ThrowsMessage<ConvertError>(HasSubstr("window of 65 tokens or more, not 64")));
  for (const char* bad : {"", "x", ",64", "1 2", "64;128"}) {
    EXPECT_THROW(ParseDistances(bad, 512), ConvertError) << bad;
  }
  for (const char* bad : {"31", "480", "-64"}) {
    EXPECT_THAT([&] { ParseDistances(bad, 512); },
                ThrowsMessage<ConvertError>(HasSubstr("at least 32 and, with 33 more, within")))
        << bad;
  }
}

}  // namespace
}  // namespace t2r::convert

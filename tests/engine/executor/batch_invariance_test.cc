// The promise of bit-identity: a session's logits depend neither on how its prompt is split, at
// multiples of the backend's alignment, nor on what else is in the batch.
#include <gtest/gtest.h>

#include <bit>
#include <random>

#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

constexpr int kIds = 77;  // more than one page of keys and values

// Bits of the whole log distribution after each id.
using Trace = std::vector<std::vector<uint32_t>>;

std::vector<uint32_t> BitsOf(const std::vector<TokenLogprob>& top, int vocab) {
  std::vector<uint32_t> bits(vocab);
  for (const TokenLogprob& entry : top) bits[entry.token] = std::bit_cast<uint32_t>(entry.logprob);
  return bits;
}

// Feeds `ids` alone, in pieces of the given sizes (repeated), keeping the distribution at each
// piece's end.
Trace Alone(Executor& executor, const std::vector<int32_t>& ids, const std::vector<int>& sizes) {
  const int vocab = executor.limits().vocab_size;
  const int slot = executor.Open({kIds}, Greedy());
  EXPECT_GE(slot, 0);
  Trace trace(ids.size());
  std::vector<ChunkResult> results;
  size_t first = 0;
  for (size_t i = 0; first < ids.size(); ++i) {
    const size_t count = std::min<size_t>(sizes[i % sizes.size()], ids.size() - first);
    ScheduledChunk chunk =
        MakeChunk(slot, std::span(ids).subspan(first, count), static_cast<int64_t>(first), true);
    chunk.top_logprobs = vocab;
    executor.Step({&chunk, 1}, &results);
    first += count;
    trace[first - 1] = BitsOf(results[0].top, vocab);
  }
  executor.Close(slot);
  return trace;
}

void ExpectSame(const Trace& expected, const Trace& found, const std::string& what) {
  int compared = 0;
  for (size_t t = 0; t < found.size(); ++t) {
    if (found[t].empty()) continue;
    ++compared;
    EXPECT_EQ(expected[t], found[t]) << what << ": position " << t;
  }
  EXPECT_GT(compared, 0);
}

class BatchInvarianceTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ModelSpec spec;
    if (GetParam().substr(0, 4) == "gpt2") {
      spec.gpt2 = true;
      spec.groups = spec.heads;
      spec.features = 6;
    }
    spec.vocab = 37;
    spec.linear = {true, false, true};
    if (GetParam().find("hedgehog") != std::string::npos) spec.map = "hedgehog";
    EngineOptions options;
    options.threads = 2;
    options.max_sessions = 20;
    if (GetParam().find("bfloat16") != std::string::npos) options.dtype = "bfloat16";
    engine_ = RandomEngine(spec, options);
    ASSERT_NE(engine_, nullptr);
    vocab_ = spec.vocab;
  }

  std::unique_ptr<Engine> engine_;
  int vocab_ = 0;
};

TEST_P(BatchInvarianceTest, AnySplitOfThePromptGivesTheSameBits) {
  Executor& executor = *engine_->executor;
  const auto ids = SomeIds(kIds, vocab_);
  if (executor.limits().prompt_alignment == 1) {
    const Trace expected = Alone(executor, ids, {1});
    for (const std::vector<int>& sizes :
         std::vector<std::vector<int>>{{2}, {3, 1}, {7}, {16, 5}, {33}, {64, 13}, {kIds}}) {
      ExpectSame(expected, Alone(executor, ids, sizes), "pieces of " + std::to_string(sizes[0]));
    }
    return;
  }
  ASSERT_EQ(executor.limits().prompt_alignment, 64);
  ExpectSame(Alone(executor, ids, {64, 13}), Alone(executor, ids, {kIds}), "in one piece");
  // A last row alone in its tile is a prompt's end or a decode.
  const std::vector<int32_t> short_ids(ids.begin(), ids.begin() + 65);
  ExpectSame(Alone(executor, short_ids, {64, 1}), Alone(executor, short_ids, {65}), "65 at once");
}

TEST_P(BatchInvarianceTest, NeighboursDoNotChangeBits) {
  Executor& executor = *engine_->executor;
  // With an alignment, a prompt of 66 in pieces of 64 and 2, then a token at a time.
  const bool aligned = executor.limits().prompt_alignment > 1;
  const int sessions_count = aligned ? 6 : 17;  // the emulated device is slow
  std::vector<std::vector<int32_t>> ids;
  std::vector<Trace> expected;
  std::vector<int> slots;
  std::vector<int> sizes = {1};
  if (aligned) {
    sizes = {64, 2};
    sizes.resize(kIds, 1);
  }
  for (int i = 0; i < sessions_count; ++i) {
    ids.push_back(SomeIds(kIds, vocab_, i));
    expected.push_back(Alone(executor, ids.back(), sizes));
  }
  for (int i = 0; i < sessions_count; ++i) slots.push_back(executor.Open({kIds}, Greedy()));
  // Every step takes a random set of sessions, most of them one token, some a chunk.
  std::mt19937 random(3);
  std::vector<size_t> done(sessions_count, 0);
  std::vector<Trace> found(sessions_count, Trace(kIds));
  for (int step = 0; step < 60; ++step) {
    std::vector<ScheduledChunk> chunks;
    std::vector<int> sessions;
    int64_t budget = executor.limits().max_step_tokens;
    for (int i = 0; i < sessions_count; ++i) {
      const size_t left = ids[i].size() - done[i];
      if (left == 0 || random() % 4 == 0) continue;
      size_t want = random() % 5 == 0 ? 1 + random() % 40 : 1;
      if (aligned) want = done[i] == 0 ? 64 : done[i] == 64 ? 2 : 1;
      const size_t count = std::min({want, left, static_cast<size_t>(budget)});
      if (count == 0 || (aligned && count < want)) continue;
      budget -= static_cast<int64_t>(count);
      chunks.push_back(MakeChunk(slots[i], std::span(ids[i]).subspan(done[i], count),
                                 static_cast<int64_t>(done[i]), true));
      chunks.back().top_logprobs = vocab_;
      sessions.push_back(i);
      done[i] += count;
    }
    if (chunks.empty()) continue;
    std::vector<ChunkResult> results;
    executor.Step(chunks, &results);
    for (size_t w = 0; w < chunks.size(); ++w) {
      found[sessions[w]][done[sessions[w]] - 1] = BitsOf(results[w].top, vocab_);
    }
  }
  for (int i = 0; i < sessions_count; ++i) {
    ExpectSame(expected[i], found[i], "session " + std::to_string(i));
    executor.Close(slots[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Everything, BatchInvarianceTest,
                         ::testing::Values("llama", "llama_hedgehog", "llama_bfloat16", "gpt2",
                                           "gpt2_hedgehog", "gpt2_bfloat16"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace t2r::testing

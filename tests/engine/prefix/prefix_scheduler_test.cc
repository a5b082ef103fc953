// Prompts' beginnings in the scheduler, over an executor that checks what it is told: what is
// found, for whom, what is kept, and that nothing else changes.
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

constexpr int kVocab = 100;
constexpr int kStates = 8;

ExecutorLimits Limits() {
  ExecutorLimits limits = FakeExecutor::DefaultLimits();
  limits.max_step_tokens = 64;
  limits.prefix_states = kStates;
  limits.prefix_state_bytes = 4096;
  return limits;
}

std::vector<int32_t> Ids(int salt, int count) {
  std::mt19937 random(static_cast<uint32_t>(salt));
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
  return ids;
}

std::vector<int32_t> Join(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class StatsObserver : public SchedulerObserver {
 public:
  void OnPrefixes(const PrefixStats& now) override { stats = now; }
  void OnStep(const StepReport& step) override { prompt_rows += step.prompt_rows; }
  PrefixStats stats;  // read when no request runs
  int64_t prompt_rows = 0;
};

class PrefixSchedulerTest : public ::testing::Test {
 protected:
  explicit PrefixSchedulerTest(bool shared = false) : executor_(Limits()) {
    SchedulerOptions options;
    options.max_prompt_chunk = 32;
    options.prefix_cache_shared = shared;
    scheduler_ = std::make_unique<Scheduler>(executor_, nullptr, &observer_, options);
  }

  // One request alone: its cached tokens. Its tokens are those of its whole prompt.
  int64_t Cached(const std::vector<int32_t>& prompt, const std::string& tenant = "",
                 const std::function<void(Request*)>& change = nullptr) {
    Request request;
    request.prompt = prompt;
    request.max_tokens = 3;
    request.tenant = tenant;
    if (change) change(&request);
    const auto sink = std::make_shared<FakeSink>();
    SubmitOrFail(*scheduler_, request, sink);
    const FinishEvent finish = sink->WaitUntilFinished();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
    EXPECT_EQ(finish.prompt_tokens, static_cast<int64_t>(prompt.size()));
    if (!request.score && request.beams.count == 0) {
      EXPECT_EQ(sink->tokens(), ExpectedTokens(prompt, 3, kVocab));
    }
    return finish.cached_prompt_tokens;
  }

  FakeExecutor executor_;
  StatsObserver observer_;
  std::unique_ptr<Scheduler> scheduler_;
};

class SharedPrefixSchedulerTest : public PrefixSchedulerTest {
 protected:
  SharedPrefixSchedulerTest() : PrefixSchedulerTest(true) {}
};

TEST_F(PrefixSchedulerTest, TheSecondPromptOfABeginningFindsItsEndTheThirdItsBranch) {
  const std::vector<int32_t> system = Ids(1, 100);
  EXPECT_EQ(Cached(Join(system, Ids(2, 10))), 0);
  EXPECT_EQ(Cached(Join(system, Ids(3, 15))), 96);  // three chunks of 32
  EXPECT_EQ(Cached(Join(system, Ids(4, 20))), 96) << "four more tokens are not worth a state";
  const std::vector<int32_t> other = Ids(5, 120);
  EXPECT_EQ(Cached(Join(other, Ids(6, 40))), 0);  // kept at 128, and spares at 96, 64
  EXPECT_EQ(Cached(Join(other, Ids(7, 30))), 96);
  EXPECT_EQ(Cached(Join(other, Ids(8, 30))), 120);
}

TEST_F(PrefixSchedulerTest, APromptSentAgainRunsItsLastChunkThenItsLastToken) {
  const std::vector<int32_t> prompt = Ids(1, 120);
  EXPECT_EQ(Cached(prompt), 0);
  EXPECT_EQ(Cached(prompt), 96);
  EXPECT_EQ(Cached(prompt), 119);
  EXPECT_EQ(observer_.prompt_rows, 120 + 24 + 1);
  scheduler_->Drain(absl::InfiniteFuture());
  EXPECT_EQ(observer_.stats.queried, 360);
  EXPECT_EQ(observer_.stats.hit, 96 + 119);
}

TEST_F(PrefixSchedulerTest, ShortPromptsAreFoundToo) {
  const std::vector<int32_t> prompt = Ids(1, 25);
  EXPECT_EQ(Cached(prompt), 0);
  EXPECT_EQ(Cached(prompt), 24);
  EXPECT_EQ(Cached(Join(prompt, Ids(2, 50))), 24);
}

TEST_F(PrefixSchedulerTest, AnotherTenantGetsNoHit) {
  const std::vector<int32_t> prompt = Ids(1, 80);
  EXPECT_EQ(Cached(prompt, "a"), 0);
  EXPECT_EQ(Cached(prompt, "b"), 0);
  EXPECT_EQ(Cached(prompt, ""), 0);
  EXPECT_GT(Cached(prompt, "a"), 0);
  EXPECT_GT(Cached(prompt, "b"), 0);
}

TEST_F(SharedPrefixSchedulerTest, TenantsShareWhereThatIsAskedFor) {
  const std::vector<int32_t> prompt = Ids(1, 80);
  EXPECT_EQ(Cached(prompt, "a"), 0);
  EXPECT_EQ(Cached(prompt, "b"), 64);
}

TEST_F(PrefixSchedulerTest, ScoresAndLaterTurnsAreLeftAlone) {
  const std::vector<int32_t> prompt = Ids(1, 80);
  const auto score = [](Request* request) { request->score = true; };
  EXPECT_EQ(Cached(prompt, "", score), 0);
  EXPECT_EQ(Cached(prompt), 0);
  EXPECT_EQ(Cached(prompt, "", score), 0);
}

TEST_F(PrefixSchedulerTest, BeamsProfit) {
  const std::vector<int32_t> prompt = Ids(1, 80);
  const auto beams = [](Request* request) {
    request->sampling.temperature = 0;
    request->beams = {.count = 3, .num_return = 1};
  };
  EXPECT_EQ(Cached(prompt), 0);
  EXPECT_EQ(Cached(prompt, "", beams), 64);
}

TEST_F(PrefixSchedulerTest, NoMoreThanFitIsKeptAndWhatIsUsedStays) {
  const std::vector<int32_t> system = Ids(1, 64);
  Cached(Join(system, Ids(2, 40)));
  Cached(Join(system, Ids(3, 40)));
  for (int i = 0; i < 40; ++i) {
    Cached(Ids(100 + i, 50));
    EXPECT_EQ(Cached(Join(system, Ids(200 + i, 5))), 64);
    EXPECT_LE(executor_.kept_prefixes(), kStates);
  }
  scheduler_->Drain(absl::InfiniteFuture());
  EXPECT_EQ(observer_.stats.states, kStates);
  EXPECT_EQ(observer_.stats.bytes, kStates * 4096);
  EXPECT_GE(observer_.stats.evictions, 30);
  scheduler_.reset();
  EXPECT_EQ(executor_.kept_prefixes(), 0);
}

TEST_F(PrefixSchedulerTest, ALostDeviceEndsRequestsAsEver) {
  executor_.FailForks();
  const auto sink = std::make_shared<FakeSink>();
  Request request;
  request.prompt = Ids(1, 80);
  request.max_tokens = 3;
  SubmitOrFail(*scheduler_, request, sink);
  EXPECT_EQ(sink->WaitUntilFinished().reason, FinishReason::kError);
  EXPECT_FALSE(scheduler_->health().ok());
}

// Many clients of few beginnings: each has the tokens of its whole prompt. FakeExecutor checks what
// slots are started from.
TEST_F(PrefixSchedulerTest, ManyAtOnce) {
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([this, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      const auto draw = [&random](int n) { return static_cast<int>(random() % n); };
      for (int i = 0; i < 60; ++i) {
        Request request;
        request.prompt = Join(Ids(draw(5), 10 + 30 * draw(4)), Ids(1000 + draw(500), draw(30)));
        request.max_tokens = 1 + draw(6);
        request.tenant = draw(3) == 0 ? "a" : "b";
        const auto sink = std::make_shared<FakeSink>();
        auto place = scheduler_->Reserve(request.queue_tokens(), request.tenant);
        ASSERT_TRUE(place.ok());
        const auto id = scheduler_->Submit(*std::move(place), request, sink);
        ASSERT_TRUE(id.ok());
        if (draw(5) == 0) scheduler_->Cancel(*id);
        sink->WaitUntilFinished();
        const std::vector<int32_t> tokens = sink->tokens();
        EXPECT_EQ(tokens,
                  ExpectedTokens(request.prompt, static_cast<int64_t>(tokens.size()), kVocab));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  scheduler_->Drain(absl::InfiniteFuture());
  EXPECT_GT(observer_.stats.hit, 1000);
  EXPECT_EQ(executor_.open_slots(), 0);
  EXPECT_LE(executor_.kept_prefixes(), kStates);
}

}  // namespace
}  // namespace t2r

// The parts of the bench that need no server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "client/load/closed_loop.h"
#include "client/load/load.h"
#include "client/load/positions.h"
#include "client/load/samples.h"
#include "client/load/stream_timing.h"

namespace t2r::client {
namespace {

using std::chrono::milliseconds;

TEST(WeightedSamplesTest, NearestRank) {
  WeightedSamples samples;
  for (const int value : {15, 50, 20, 40, 35}) samples.Add(value);
  // The textbook example of the nearest-rank method.
  EXPECT_EQ(samples.Percentile(5), 15);
  EXPECT_EQ(samples.Percentile(30), 20);
  EXPECT_EQ(samples.Percentile(40), 20);
  EXPECT_EQ(samples.Percentile(50), 35);
  EXPECT_EQ(samples.Percentile(100), 50);
  EXPECT_EQ(samples.Mean(), 32);
}

TEST(WeightedSamplesTest, AWeightIsARepetition) {
  WeightedSamples weighted;
  WeightedSamples repeated;
  weighted.Add(3, 4);
  weighted.Add(1, 2);
  weighted.Add(9, 0);
  WeightedSamples more;
  more.Add(2, 3);
  weighted.Merge(more);
  for (const int value : {3, 3, 3, 3, 1, 1, 2, 2, 2}) repeated.Add(value);
  EXPECT_EQ(weighted.count(), 9);
  EXPECT_EQ(weighted.Mean(), repeated.Mean());
  for (int percent = 1; percent <= 100; ++percent) {
    EXPECT_EQ(weighted.Percentile(percent), repeated.Percentile(percent)) << percent;
  }
}

TEST(WeightedSamplesTest, NothingHasNoPercentile) {
  EXPECT_TRUE(std::isnan(WeightedSamples().Percentile(50)));
  EXPECT_TRUE(std::isnan(WeightedSamples().Mean()));
}

TEST(WeightedSamplesTest, AddAfterAPercentile) {
  WeightedSamples samples;
  samples.Add(5);
  EXPECT_EQ(samples.Percentile(50), 5);
  samples.Add(1);
  EXPECT_EQ(samples.Percentile(50), 1);
}

TEST(StreamTimingTest, ADeltaOfSeveralTokensSharesItsTime) {
  const Clock::time_point start;
  StreamTiming timing(start);
  WeightedSamples gaps;
  timing.OnTokens(start + milliseconds(100), 2, &gaps);
  timing.OnTokens(start + milliseconds(110), 1, &gaps);
  timing.OnTokens(start + milliseconds(150), 4, &gaps);
  timing.OnTokens(start + milliseconds(155), 0, &gaps);
  EXPECT_EQ(timing.tokens(), 7);
  EXPECT_DOUBLE_EQ(timing.TimeToFirstToken().value_or(0), 0.1);
  EXPECT_EQ(gaps.count(), 5);  // the first Delta's tokens have no time of their own
  EXPECT_DOUBLE_EQ(gaps.Percentile(100), 0.01);
  EXPECT_DOUBLE_EQ(gaps.Mean(), 0.01);
  EXPECT_DOUBLE_EQ(timing.DecodeRate().value_or(0), 100);
}

TEST(StreamTimingTest, NothingIsKnownBeforeTokens) {
  StreamTiming timing{Clock::time_point()};
  EXPECT_EQ(timing.TimeToFirstToken(), std::nullopt);
  EXPECT_EQ(timing.DecodeRate(), std::nullopt);
  timing.OnTokens(Clock::time_point(milliseconds(1)), 3, nullptr);
  EXPECT_EQ(timing.DecodeRate(), std::nullopt);
}

// A session whose token at position p takes p milliseconds.
std::vector<Arrival> SlowingSession(uint64_t prompt, uint64_t end, uint64_t step) {
  std::vector<Arrival> arrivals;
  double seconds = 0;
  for (uint64_t p = prompt + 1; p <= end; ++p) {
    seconds += static_cast<double>(p) * 1e-3;
    if ((p - prompt - 1) % step == 0) arrivals.push_back({p, seconds});
  }
  return arrivals;
}

TEST(MeasurePositionTest, MeansOverTheWindow) {
  const std::vector<Arrival> arrivals = SlowingSession(10, 2000, 1);
  for (const uint64_t at : {100u, 1000u}) {
    const std::optional<PositionResult> result = MeasurePosition(arrivals, at, 20);
    ASSERT_TRUE(result);
    EXPECT_EQ(result->tokens, 20);
    // Positions at-9 ... at+10.
    EXPECT_NEAR(result->mean, (static_cast<double>(at) + 0.5) * 1e-3, 1e-9);
    EXPECT_NEAR(result->median, static_cast<double>(at) * 1e-3, 1e-9);
  }
}

TEST(MeasurePositionTest, CoversTheWindowWhereDeltasCarrySeveralTokens) {
  const std::optional<PositionResult> result =
      MeasurePosition(SlowingSession(10, 2000, 7), 1000, 20);
  ASSERT_TRUE(result);
  EXPECT_GE(result->tokens, 20);
  EXPECT_LE(result->tokens, 20 + 2 * 6);
  EXPECT_NEAR(result->mean, 1.0, 0.01);
}

TEST(MeasurePositionTest, StartsWithTheSession) {
  const std::optional<PositionResult> result = MeasurePosition(SlowingSession(10, 100, 1), 20, 40);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->tokens, 29);  // from position 11 to 40
}

TEST(MeasurePositionTest, ASessionThatEndedEarlyHasNoResult) {
  EXPECT_EQ(MeasurePosition(SlowingSession(10, 100, 1), 95, 20), std::nullopt);
  EXPECT_EQ(MeasurePosition({}, 95, 20), std::nullopt);
  EXPECT_EQ(MeasurePosition(SlowingSession(10, 1000, 1), 5, 4), std::nullopt);  // in the prompt
}

TEST(TableTest, AlignsColumns) {
  Table table({"n", "tokens/s"});
  table.AddRow({"1", "12.5"});
  table.AddRow({"1000", "7"});
  EXPECT_EQ(table.ToString(),
            "   n  tokens/s\n"
            "----  --------\n"
            "   1      12.5\n"
            "1000         7\n");
}

TEST(TableTest, Formats) {
  EXPECT_EQ(FormatNumber(1.256, 2), "1.26");
  EXPECT_EQ(FormatNumber(std::numeric_limits<double>::quiet_NaN(), 2), "-");
  EXPECT_EQ(FormatMilliseconds(0.0000421), "0.0421");
  EXPECT_EQ(FormatMilliseconds(0.00123), "1.23");
  EXPECT_EQ(FormatMilliseconds(0.0456), "45.6");
  EXPECT_EQ(FormatMilliseconds(12.3456), "12346");
  EXPECT_EQ(FormatMilliseconds(std::numeric_limits<double>::quiet_NaN()), "-");
  EXPECT_EQ(FormatBytes(999), "999 bytes");
  EXPECT_EQ(FormatBytes(1536), "1,536 bytes (1.50 KiB)");
  EXPECT_EQ(FormatBytes(1234567), "1,234,567 bytes (1.18 MiB)");
}

TEST(LoadRequestTest, SameSeedSameRequest) {
  const GenerateRequest a = MakeLoadRequest(5, 3, 100, 10);
  const GenerateRequest b = MakeLoadRequest(5, 3, 100, 10);
  const GenerateRequest c = MakeLoadRequest(5, 4, 100, 10);
  EXPECT_EQ(a.prompt, b.prompt);
  EXPECT_EQ(a.sampling.seed, b.sampling.seed);
  EXPECT_NE(a.prompt, c.prompt);
  EXPECT_TRUE(a.ignore_eos);
  const TokenIds& ids = std::get<TokenIds>(a.prompt);
  EXPECT_EQ(ids.size(), 100);
  EXPECT_THAT(ids, ::testing::Each(::testing::Lt(10)));
}

TEST(ProgressTest, DrawsOnTerminalsOnly) {
  std::ostringstream pipe;
  std::ostringstream terminal;
  {
    Progress silent(pipe, false);
    silent.Update("label", 0.5, "note");
    Progress drawn(terminal, true);
    drawn.Update("label", 0.5, "note");
    EXPECT_THAT(terminal.str(),
                ::testing::HasSubstr("label [============            ]  50%  note"));
    drawn.Update("label", 7, "note");
    EXPECT_THAT(terminal.str(), ::testing::HasSubstr("100%"));
  }
  EXPECT_EQ(pipe.str(), "");
  EXPECT_THAT(terminal.str(), ::testing::EndsWith("\r\033[K"));
}

TEST(ClosedLoopTest, RunsEachRequestOnceAndAsManyAtATimeAsThereAreSessions) {
  std::vector<int> made(10, 0);
  std::vector<Client::DoneCallback> open;
  size_t most = 0;
  ClosedLoop loop(
      3, 10,
      [&](size_t index, size_t session) {
        EXPECT_LT(session, 3U);
        ++made[index];
        return ClosedLoop::Job{{}, nullptr, [](const absl::Status&) {}};
      },
      [&](const GenerateRequest&, const Client::EventCallback&, Client::DoneCallback done) {
        open.push_back(std::move(done));
        most = std::max(most, open.size());
        return GenerateCall();
      });
  loop.Start();
  while (!open.empty()) {
    EXPECT_FALSE(loop.WaitFor(milliseconds(0)));
    const Client::DoneCallback done = std::move(open.back());
    open.pop_back();
    done(absl::OkStatus());
  }
  EXPECT_TRUE(loop.WaitFor(milliseconds(0)));
  EXPECT_EQ(loop.ended(), 10U);
  EXPECT_EQ(most, 3U);
  EXPECT_EQ(made, std::vector<int>(10, 1));
}

// A request may end, on another thread, before the call that starts it returns. Until it has
// returned the loop and what its callbacks touch must stay.
TEST(ClosedLoopTest, IsNotOverWhileACallIsBeingStarted) {
  ClosedLoop* running = nullptr;
  int started = 0;
  const auto start = [&](const GenerateRequest&, const Client::EventCallback&,
                         const Client::DoneCallback& done) {
    std::thread([&done] { done(absl::OkStatus()); }).join();
    EXPECT_FALSE(running->WaitFor(milliseconds(0)));
    ++started;
    return GenerateCall();
  };
  ClosedLoop loop(
      1, 5,
      [](size_t, size_t) {
        return ClosedLoop::Job{{}, nullptr, [](const absl::Status&) {}};
      },
      start);
  running = &loop;
  loop.Start();
  EXPECT_TRUE(loop.WaitFor(milliseconds(0)));
  EXPECT_EQ(started, 5);
}

TEST(ClosedLoopTest, StopStartsNothingMore) {
  std::vector<Client::DoneCallback> open;
  ClosedLoop loop(
      2, 100,
      [](size_t, size_t) {
        return ClosedLoop::Job{{}, nullptr, [](const absl::Status&) {}};
      },
      [&](const GenerateRequest&, const Client::EventCallback&, Client::DoneCallback done) {
        open.push_back(std::move(done));
        return GenerateCall();
      });
  loop.Start();
  loop.Stop();
  ASSERT_EQ(open.size(), 2U);
  for (const Client::DoneCallback& done : std::vector<Client::DoneCallback>(open))
    done(absl::CancelledError(""));
  EXPECT_EQ(open.size(), 2U);
  EXPECT_TRUE(loop.WaitFor(milliseconds(0)));
}

}  // namespace
}  // namespace t2r::client

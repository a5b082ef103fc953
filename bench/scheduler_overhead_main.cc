// Prints what the scheduler itself costs a step: everything between two steps of an executor, with
// all sessions decoding, with and without text. Not a test: figures depend on the machine.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/null_executor.h"
#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

constexpr int kVocabulary = 100;

// Medians of the time from a step's end until the next is launched (a device stands idle), and
// until its end is waited for (all that the scheduler does in a step).
struct Gaps {
  absl::Duration idle, total;
};

absl::Duration Median(std::vector<absl::Duration>& gaps) {
  std::sort(gaps.begin(), gaps.end());
  return gaps.empty() ? absl::ZeroDuration() : gaps[gaps.size() / 2];
}

// Answers at once and notes the time between its calls.
class TimedExecutor : public bench::NullExecutor {
 public:
  TimedExecutor(int sessions, int64_t steps) : NullExecutor(LimitsFor(sessions)) {
    idle_.reserve(static_cast<size_t>(steps));
    total_.reserve(static_cast<size_t>(steps));
  }
  void Launch(std::span<const ScheduledChunk> chunks) override {
    if (full_) idle_.push_back(absl::Now() - end_);
    full_ = static_cast<int>(chunks.size()) == limits().slots && chunks[0].position > 0;
    NullExecutor::Launch(chunks);
  }
  void Wait(std::vector<ChunkResult>* results) override {
    if (full_) total_.push_back(absl::Now() - end_);
    NullExecutor::Wait(results);
    end_ = absl::Now();
  }
  Gaps Medians() { return {Median(idle_), Median(total_)}; }

 private:
  static ExecutorLimits LimitsFor(int sessions) {
    ExecutorLimits limits;
    limits.slots = sessions;
    limits.max_step_tokens = sessions + 128;
    limits.vocab_size = kVocabulary;
    return limits;
  }

  bool full_ = false;
  absl::Time end_;
  std::vector<absl::Duration> idle_, total_;
};

class CountingSink : public EventSink {
 public:
  void OnStarted(size_t /*together*/) override {}
  Room RoomFor(int64_t /*tokens*/) override { return {room_.load(std::memory_order_acquire), 0}; }
  void OnToken(const TokenEvent& event) override { bytes_ += event.text.size(); }
  void OnFinished(FinishEvent /*event*/) override {}

 private:
  std::atomic<bool> room_{true};
  size_t bytes_ = 0;
};

Gaps Measure(int sessions, int64_t steps, bool text, int stops) {
  std::vector<std::string> pieces(kVocabulary);
  for (size_t i = 1; i < pieces.size(); ++i) pieces[i] = absl::StrCat(" word", i);
  const FakeTokenizer tokenizer(pieces);
  TimedExecutor executor(sessions, steps);
  {
    Scheduler scheduler(executor, text ? &tokenizer : nullptr, nullptr, SchedulerOptions());
    for (int i = 0; i < sessions; ++i) {
      Request request = MakeRequest(1, steps, i);
      for (int s = 0; s < stops; ++s) request.stop.push_back(absl::StrCat("never ", s));
      SubmitOrFail(scheduler, std::move(request), std::make_shared<CountingSink>());
    }
    scheduler.Drain(absl::InfiniteFuture());
  }
  return executor.Medians();
}

}  // namespace
}  // namespace t2r

int main() {
  std::printf("us a step: device idle / all\n%8s  %17s  %17s  %17s\n", "sessions", "ids only",
              "text", "text, 4 stops");
  for (const int sessions : {1, 64, 256, 1024}) {
    std::printf("%8d", sessions);
    for (const auto& [text, stops] :
         {std::pair(false, 0), std::pair(true, 0), std::pair(true, 4)}) {
      const t2r::Gaps gaps = t2r::Measure(sessions, 2000, text, stops);
      std::printf("  %7.1f / %7.1f", absl::ToDoubleMicroseconds(gaps.idle),
                  absl::ToDoubleMicroseconds(gaps.total));
    }
    std::printf("\n");
  }
  return 0;
}

// An executor without a model: the next token is a function of the slot's history.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/executor/executor.h"

namespace t2r {

// A mixture of the history's tokens, in [2, vocab): 0 and 1 are left for tests to use as they like.
int32_t MixToken(std::span<const int32_t> history, int vocab);
// The score that FakeExecutor gives `target` after `history`.
float MixScore(std::span<const int32_t> history, int32_t target);
// The n best alternatives after `history`, best first: a function of all its tokens. Their
// probabilities add up to 1 at n = vocab.
std::vector<TokenLogprob> MixAlternatives(std::span<const int32_t> history, int vocab, int64_t n);
// The first n tokens FakeExecutor generates after a prompt.
std::vector<int32_t> ExpectedTokens(std::vector<int32_t> prompt, int64_t n, int vocab);

// Fails the running test when the caller breaks the Executor's contract (wrong position, a slot
// twice in a batch, more rows than allowed, a closed slot, calls from several threads).
class FakeExecutor : public Executor {
 public:
  struct ChunkRecord {
    int slot = 0;
    int64_t position = 0;
    int64_t rows = 0;
    bool sample = false;
    int64_t targets = 0;
  };
  using StepRecord = std::vector<ChunkRecord>;
  using NextToken = std::function<int32_t(std::span<const int32_t> history)>;
  using Alternatives =
      std::function<std::vector<TokenLogprob>(std::span<const int32_t> history, int64_t n)>;

  static ExecutorLimits DefaultLimits();
  explicit FakeExecutor(ExecutorLimits limits = DefaultLimits());

  // ---- Called before the scheduler starts ----
  void set_next_token(NextToken next) { next_ = std::move(next); }
  // Default: i with log probability −1 − i.
  void set_alternatives(Alternatives alternatives) { alternatives_ = std::move(alternatives); }
  // Whether the logits after `history` are not finite.
  void set_not_finite(std::function<bool(std::span<const int32_t> history)> not_finite) {
    not_finite_ = std::move(not_finite);
  }
  void set_keep_records(bool keep) { keep_records_ = keep; }

  // ---- Any thread ----
  // From now on a step waits in Wait until it is allowed.
  void Hold();
  // Lets n more steps finish.
  void Allow(int64_t n);
  void AllowAll();
  // Until the engine thread waits inside a step that is not allowed, n steps being done.
  void WaitUntilHeldAfter(int64_t n);
  // Every step from now on throws DeviceError, in Launch or in Wait.
  void FailLaunches();
  void FailSteps();
  // The next step throws this, once, in Wait; the device goes on.
  void FailNextStep(std::exception_ptr error);
  // The same in Open.
  void FailNextOpen(std::exception_ptr error);
  // From now on Open throws, or Close, which frees the slot nevertheless.
  void FailOpens();
  void FailCloses();
  void FailForks();
  int64_t steps() const;
  int open_slots() const;
  int64_t free_pages() const;
  std::vector<StepRecord> records() const;
  int64_t forks() const;
  // Prefixes that are kept now.
  int kept_prefixes() const;

  // ---- Executor ----
  const ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(const SessionSize& size, int count) const override;
  int Open(const SessionSize& size, const SamplingParams& sampling) override;
  void Fork(int from, int to) override;
  void Close(int slot) override;
  // The history, as the bytes of the state's pages.
  SlotState Save(int slot) override;
  void Restore(int slot, const SlotState& state) override;
  int KeepPrefix(int slot) override;
  void StartFromPrefix(int slot, int prefix, std::span<const int32_t> tokens) override;
  void DropPrefix(int prefix) override;
  int64_t prefix_bytes() const override;
  void Launch(std::span<const ScheduledChunk> chunks) override;
  void Wait(std::vector<ChunkResult>* results) override;

 private:
  struct Slot {
    bool open = false;
    int64_t positions = 0;
    int64_t pages = 0;
    bool lasting = false;
    std::vector<int32_t> history;
  };

  // The rules for every call but Wait.
  void CheckCall() const;
  int64_t PagesFor(int64_t positions) const;
  void Run(const ScheduledChunk& chunk, ChunkResult* result);

  const ExecutorLimits limits_;
  NextToken next_;
  Alternatives alternatives_;
  std::function<bool(std::span<const int32_t>)> not_finite_;
  bool keep_records_ = true;

  mutable std::mutex mu_;
  std::condition_variable changed_;
  mutable std::thread::id engine_;
  std::vector<Slot> slots_;
  std::vector<std::vector<int32_t>> prefixes_;  // histories; empty: free
  int open_slots_ = 0;
  int64_t free_pages_ = 0;
  bool hold_ = false;
  int64_t allowed_ = 0;
  bool waiting_ = false;
  std::exception_ptr step_error_, open_error_;
  bool fail_launches_ = false;
  bool fail_ = false;
  bool fail_opens_ = false;
  bool fail_closes_ = false;
  bool fail_forks_ = false;
  int64_t forks_ = 0;
  std::span<const ScheduledChunk> launched_;  // empty: no step is under way
  int64_t steps_ = 0;
  std::vector<StepRecord> records_;
};

}  // namespace t2r

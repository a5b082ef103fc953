// Test doubles around the scheduler: a client, a clock, an observer, a tokenizer.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/scheduler/scheduler.h"

namespace t2r {

// A client with an outbox of `capacity` tokens that it empties only when told to. Fails the test
// when events come in a wrong order or without room.
class FakeSink : public EventSink {
 public:
  explicit FakeSink(int64_t capacity = int64_t{1} << 40) : capacity_(capacity) {}

  // ---- Any thread ----
  // Makes room for n more tokens; the owner then calls Wake.
  void AddRoom(int64_t n);
  // Counts bytes as taken by the client.
  void TakeBytes(int64_t bytes);
  void WaitUntilStarted();
  void WaitForTokens(int64_t n);
  // The last event, waiting for it.
  FinishEvent WaitUntilFinished();
  bool started() const;
  // What OnStarted was told.
  size_t started_together() const;
  bool finished() const;
  std::vector<TokenEvent> events() const;
  std::vector<int32_t> tokens() const;
  // Of all tokens, and of the last event.
  std::string text() const;

  void OnStarted(size_t together) override;
  Room RoomFor(int64_t tokens) override;
  void OnToken(const TokenEvent& event) override;
  void OnFinished(FinishEvent event) override;

 private:
  template <typename Predicate>
  void Wait(const char* what, Predicate predicate);

  mutable std::mutex mu_;
  std::condition_variable changed_;
  int64_t capacity_;
  int64_t taken_bytes_ = 0;
  bool started_ = false;
  size_t started_together_ = 0;
  bool finished_ = false;
  std::vector<TokenEvent> events_;
  FinishEvent finish_;
};

// Stands still until moved.
class FakeClock {
 public:
  absl::Time Now() const;
  void Advance(absl::Duration by);
  std::function<absl::Time()> AsFunction() {
    return [this] { return Now(); };
  }

 private:
  mutable std::mutex mu_;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000'000);
};

class FakeObserver : public SchedulerObserver {
 public:
  struct Counts {
    int64_t submitted = 0, finished = 0, first_tokens = 0, later_tokens = 0;
    int64_t queue_requests = 0, queue_tokens = 0, max_queue_requests = 0;
    int64_t steps = 0, decode_rows = 0, prompt_rows = 0;
    int running = 0, slots_used = 0;
    int64_t not_finite = 0;
    std::map<FinishReason, int64_t> reasons;
  };
  Counts counts() const;

  void OnSubmitted() override;
  void OnQueue(int64_t requests, int64_t tokens) override;
  void OnSessions(int running, int slots_used) override;
  void OnStep(const StepReport& step) override;
  void OnNotFinite() override;
  void OnFirstToken(absl::Duration since_submit) override;
  void OnFinished(const FinishEvent& event, absl::Duration since_submit) override;

 private:
  mutable std::mutex mu_;
  Counts counts_;
};

// Token i is the bytes pieces[i]; an empty piece is a special token.
class FakeTokenizer : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text, bool special) const override;
  std::string_view TokenBytes(int32_t id, bool at_start) const override;
  bool IsSpecial(int32_t id) const override;
  int vocab_size() const override { return static_cast<int>(pieces_.size()); }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }
  bool adds_bos() const override { return false; }

 private:
  std::vector<std::string> pieces_;
};

// A Generate request: greedy, `prompt_tokens` ids made from `salt`.
Request MakeRequest(int64_t prompt_tokens, int64_t max_tokens, int32_t salt = 0);

// Reserve and Submit; fails the test when refused (then 0).
RequestId SubmitOrFail(Scheduler& scheduler, Request request, std::shared_ptr<EventSink> sink);

}  // namespace t2r

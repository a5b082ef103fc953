#include "tests/engine/scheduler/testing/fakes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace t2r {

template <typename Predicate>
void FakeSink::Wait(const char* what, Predicate predicate) {
  std::unique_lock lock(mu_);
  EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), predicate))
      << "waited in vain for " << what << "; tokens: " << events_.size()
      << ", finished: " << finished_;
}

void FakeSink::TakeBytes(int64_t bytes) {
  const std::lock_guard lock(mu_);
  taken_bytes_ += bytes;
}

void FakeSink::AddRoom(int64_t n) {
  const std::lock_guard lock(mu_);
  capacity_ += n;
}

void FakeSink::WaitUntilStarted() {
  Wait("OnStarted", [this] { return started_ || finished_; });
}

void FakeSink::WaitForTokens(int64_t n) {
  Wait("tokens", [this, n] { return static_cast<int64_t>(events_.size()) >= n; });
}

FinishEvent FakeSink::WaitUntilFinished() {
  Wait("OnFinished", [this] { return finished_; });
  const std::lock_guard lock(mu_);
  return finish_;
}

bool FakeSink::started() const {
  const std::lock_guard lock(mu_);
  return started_;
}

size_t FakeSink::started_together() const {
  const std::lock_guard lock(mu_);
  return started_together_;
}

bool FakeSink::finished() const {
  const std::lock_guard lock(mu_);
  return finished_;
}

std::vector<TokenEvent> FakeSink::events() const {
  const std::lock_guard lock(mu_);
  return events_;
}

std::vector<int32_t> FakeSink::tokens() const {
  const std::lock_guard lock(mu_);
  std::vector<int32_t> ids;
  for (const TokenEvent& event : events_) ids.push_back(event.token);
  return ids;
}

std::string FakeSink::text() const {
  const std::lock_guard lock(mu_);
  std::string text;
  for (const TokenEvent& event : events_) text += event.text;
  return text + finish_.text;
}

void FakeSink::OnStarted(size_t together) {
  const std::lock_guard lock(mu_);
  EXPECT_FALSE(started_);
  EXPECT_FALSE(finished_);
  started_ = true;
  started_together_ = together;
  changed_.notify_all();
}

EventSink::Room FakeSink::RoomFor(int64_t tokens) {
  const std::lock_guard lock(mu_);
  return {static_cast<int64_t>(events_.size()) + tokens <= capacity_, taken_bytes_};
}

void FakeSink::OnToken(const TokenEvent& event) {
  const std::lock_guard lock(mu_);
  EXPECT_TRUE(started_);
  EXPECT_FALSE(finished_);
  EXPECT_LT(static_cast<int64_t>(events_.size()), capacity_);
  events_.push_back(event);
  changed_.notify_all();
}

void FakeSink::OnFinished(FinishEvent event) {
  const std::lock_guard lock(mu_);
  EXPECT_FALSE(finished_) << "finished twice";
  finished_ = true;
  finish_ = std::move(event);
  changed_.notify_all();
}

absl::Time FakeClock::Now() const {
  const std::lock_guard lock(mu_);
  return now_;
}

void FakeClock::Advance(absl::Duration by) {
  const std::lock_guard lock(mu_);
  now_ += by;
}

FakeObserver::Counts FakeObserver::counts() const {
  const std::lock_guard lock(mu_);
  return counts_;
}

void FakeObserver::OnSubmitted() {
  const std::lock_guard lock(mu_);
  ++counts_.submitted;
}

void FakeObserver::OnQueue(int64_t requests, int64_t tokens) {
  const std::lock_guard lock(mu_);
  EXPECT_GE(requests, 0);
  EXPECT_GE(tokens, 0);
  counts_.queue_requests = requests;
  counts_.queue_tokens = tokens;
  counts_.max_queue_requests = std::max(counts_.max_queue_requests, requests);
}

void FakeObserver::OnSessions(int running, int slots_used) {
  const std::lock_guard lock(mu_);
  EXPECT_GE(running, 0);
  EXPECT_GE(slots_used, running);
  counts_.running = running;
  counts_.slots_used = slots_used;
}

void FakeObserver::OnStep(const StepReport& step) {
  const std::lock_guard lock(mu_);
  ++counts_.steps;
  counts_.decode_rows += step.decode_rows;
  counts_.prompt_rows += step.prompt_rows;
  for (const StepReport::Gap& gap : step.gaps) {
    EXPECT_GE(gap.time, absl::ZeroDuration());
    EXPECT_GT(gap.tokens, 0);
    counts_.later_tokens += gap.tokens;
  }
}

void FakeObserver::OnNotFinite() {
  const std::lock_guard lock(mu_);
  ++counts_.not_finite;
}

void FakeObserver::OnFirstToken(absl::Duration since_submit) {
  const std::lock_guard lock(mu_);
  EXPECT_GE(since_submit, absl::ZeroDuration());
  ++counts_.first_tokens;
}

void FakeObserver::OnFinished(const FinishEvent& event, absl::Duration /*since_submit*/) {
  const std::lock_guard lock(mu_);
  ++counts_.finished;
  ++counts_.reasons[event.reason];
  EXPECT_GE(counts_.submitted, counts_.finished);
}

absl::StatusOr<std::vector<int32_t>> FakeTokenizer::Encode(const std::string& /*text*/,
                                                           bool /*special*/) const {
  return absl::UnimplementedError("the scheduler never encodes");
}

std::string_view FakeTokenizer::TokenBytes(int32_t id, bool /*at_start*/) const {
  const bool known = id >= 0 && static_cast<size_t>(id) < pieces_.size();
  return known ? std::string_view(pieces_[static_cast<size_t>(id)]) : "";
}

bool FakeTokenizer::IsSpecial(int32_t id) const { return TokenBytes(id, false).empty(); }

Request MakeRequest(int64_t prompt_tokens, int64_t max_tokens, int32_t salt) {
  Request request;
  for (int64_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>((i * 7 + salt * 13 + 3) % 100));
  }
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  return request;
}

RequestId SubmitOrFail(Scheduler& scheduler, Request request, std::shared_ptr<EventSink> sink) {
  auto reservation = scheduler.Reserve(static_cast<int64_t>(request.prompt.size()), request.tenant);
  if (!reservation.ok()) {
    ADD_FAILURE() << reservation.status();
    return 0;
  }
  auto id = scheduler.Submit(*std::move(reservation), std::move(request), std::move(sink));
  if (!id.ok()) {
    ADD_FAILURE() << id.status();
    return 0;
  }
  return *id;
}

}  // namespace t2r

#include "client/resumption.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "client/client.h"

namespace t2r::client {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(50);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

// A proxy tells of a server that went by a reset of the stream, and a server that ends cancels what
// it cannot finish.
bool IsBroken(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsCancelled(status) ||
         (absl::IsInternal(status) && absl::StrContains(status.message(), "RST_STREAM"));
}

}  // namespace

Resumption::Resumption(absl::Duration limit, const v1::GenerateRequest& request, absl::Time now)
    : limit_(limit),
      may_repeat_(request.session().has_expected_position() || request.session().has_resume_at()),
      pause_(kFirstPause),
      last_(now) {
  const v1::SessionRef& session = request.session();
  if (session.has_expected_position()) expected_ = session.expected_position();
  if (may_repeat_) session_ = session.id();
}

bool Resumption::Passes(const Event& event) {
  if (limit_ == absl::ZeroDuration()) return true;
  last_ = absl::Now();
  pause_ = kFirstPause;
  if (const auto* started = std::get_if<Started>(&event)) {
    if (started_) return false;
    started_ = true;
    session_ = started->session_id;
    position_ = started->session_position;
    return true;
  }
  if (const auto* delta = std::get_if<Delta>(&event)) {
    // Its position is that of the last token, which may have come alone before.
    if (session_.empty() || !delta->token_ids.empty()) {
      position_ = std::max(position_, delta->position);
      return true;
    }
    const bool first = !tail_;
    tail_ = true;
    return first;
  }
  const auto& finished = std::get<Finished>(event);
  drained_ = finished.reason == FinishReason::kDrained && !session_.empty();
  return !drained_;
}

std::optional<absl::Time> Resumption::NextTry(const absl::Status& status, absl::Time now,
                                              v1::GenerateRequest* request) {
  const bool drained = drained_;
  drained_ = false;
  if (limit_ == absl::ZeroDuration() || status.ok() || session_.empty()) return std::nullopt;
  if (!started_ && !may_repeat_) return std::nullopt;
  const std::optional<absl::Duration> asked = RetryDelay(status);
  const bool broken = drained || IsBroken(status);
  // A session whose turn still runs somewhere is free soon.
  const bool busy = absl::IsAborted(status) && asked && (started_ || repeated_);
  // The turn was made, and its answer was lost: it stands behind where it began.
  const bool made = absl::IsAborted(status) && !asked && !started_ && repeated_ && expected_;
  if (!broken && !busy && !made) return std::nullopt;
  const absl::Duration wait = asked && !absl::IsUnavailable(status) ? *asked : pause_;
  const absl::Time next = now + (drained && asked ? *asked : wait);
  if (next > last_ + limit_) return std::nullopt;
  pause_ = std::min(2 * pause_, kLongestPause);
  repeated_ = true;
  if (started_ || made) {
    request->Clear();
    request->mutable_session()->set_id(session_);
    request->mutable_session()->set_resume_at(started_ ? position_ : *expected_);
    if (made) expected_.reset();
  }
  return next;
}

}  // namespace t2r::client

#include "engine/scheduler/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace t2r {

absl::Status Admission::Reserve(int64_t tokens) {
  tokens = std::max<int64_t>(tokens, 0);
  const std::lock_guard lock(mu_);
  if (requests_ > 0) {
    if (requests_ >= max_requests_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", requests_, " requests wait, the limit is ",
                       max_requests_, " (max_queue_requests); try again later"));
    }
    if (tokens > max_tokens_ - tokens_) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: ", tokens_, " prompt tokens wait and this request has up to ", tokens,
          ", the limit is ", max_tokens_, " (max_queue_tokens); try again later"));
    }
  }
  ++requests_;
  tokens_ += tokens;
  Report();
  return absl::OkStatus();
}

void Admission::Correct(int64_t from, int64_t to) {
  if (from == to) return;
  const std::lock_guard lock(mu_);
  tokens_ += to - from;
  Report();
}

void Admission::Release(int64_t tokens) {
  const std::lock_guard lock(mu_);
  --requests_;
  tokens_ -= tokens;
  Report();
}

void Admission::Report() {
  if (observer_ != nullptr) observer_->OnQueue(requests_, tokens_);
}

}  // namespace t2r

#include "engine/scheduler/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace t2r {

int64_t Admission::Counted(int64_t tokens) const {
  return std::clamp<int64_t>(tokens, 0, std::max<int64_t>(max_tokens_ / 2, 1));
}

absl::Status Admission::Reserve(int64_t tokens) {
  tokens = Counted(tokens);
  const MutexLock lock(mu_);
  if (requests_ > 0) {
    if (requests_ >= max_requests_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", requests_, " requests wait, the limit is ",
                       max_requests_, " (max_queue_requests); try again later"));
    }
    if (tokens > max_tokens_ - tokens_) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: ", tokens_, " prompt tokens wait and this request counts ", tokens,
          ", the limit is ", max_tokens_, " (max_queue_tokens); try again later"));
    }
  }
  ++requests_;
  tokens_ += tokens;
  Report();
  return absl::OkStatus();
}

void Admission::Correct(int64_t from, int64_t to) {
  from = Counted(from);
  to = Counted(to);
  if (from == to) return;
  const MutexLock lock(mu_);
  tokens_ += to - from;
  Report();
}

void Admission::Release(int64_t tokens) {
  const MutexLock lock(mu_);
  --requests_;
  tokens_ -= Counted(tokens);
  Report();
}

void Admission::Report() {
  if (observer_ != nullptr) observer_->OnQueue(requests_, tokens_);
}

}  // namespace t2r

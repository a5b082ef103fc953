#include "engine/scheduler/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace t2r {

int64_t Admission::Counted(int64_t tokens) const {
  return std::clamp<int64_t>(tokens, 0, std::max<int64_t>(max_tokens_ / 2, 1));
}

absl::Status Admission::CheckShare(int64_t tokens, const std::string& tenant, double share) const {
  const auto found = tenants_.find(tenant);
  if (share >= 1 || found == tenants_.end()) return absl::OkStatus();
  const auto part = [share](int64_t limit) {
    return std::max<int64_t>(static_cast<int64_t>(share * static_cast<double>(limit)), 1);
  };
  const Waiting& mine = found->second;
  if (mine.requests >= part(max_requests_)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "tenant '", tenant, "' has ", mine.requests, " requests in the queue, its limit is ",
        part(max_requests_), " (queue_share ", share, " of max_queue_requests); try again later"));
  }
  if (tokens > part(max_tokens_) - mine.tokens) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "tenant '", tenant, "' has ", mine.tokens,
        " prompt tokens in the queue and this request counts ", tokens, ", its limit is ",
        part(max_tokens_), " (queue_share ", share, " of max_queue_tokens); try again later"));
  }
  return absl::OkStatus();
}

absl::Status Admission::Reserve(int64_t tokens, const std::string& tenant, double share) {
  tokens = Counted(tokens);
  const MutexLock lock(mu_);
  if (all_.requests > 0) {
    if (all_.requests >= max_requests_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", all_.requests, " requests wait, the limit is ",
                       max_requests_, " (max_queue_requests); try again later"));
    }
    if (tokens > max_tokens_ - all_.tokens) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: ", all_.tokens, " prompt tokens wait and this request counts ",
          tokens, ", the limit is ", max_tokens_, " (max_queue_tokens); try again later"));
    }
  }
  if (absl::Status s = CheckShare(tokens, tenant, share); !s.ok()) return s;
  for (Waiting* waiting : {&all_, &tenants_[tenant]}) {
    ++waiting->requests;
    waiting->tokens += tokens;
  }
  Report();
  return absl::OkStatus();
}

void Admission::Correct(int64_t from, int64_t to, const std::string& tenant) {
  from = Counted(from);
  to = Counted(to);
  if (from == to) return;
  const MutexLock lock(mu_);
  for (Waiting* waiting : {&all_, &tenants_[tenant]}) waiting->tokens += to - from;
  Report();
}

void Admission::Release(int64_t tokens, const std::string& tenant) {
  const MutexLock lock(mu_);
  const auto mine = tenants_.find(tenant);
  for (Waiting* waiting : {&all_, &mine->second}) {
    --waiting->requests;
    waiting->tokens -= Counted(tokens);
  }
  if (mine->second.requests == 0) tenants_.erase(mine);
  Report();
}

void Admission::Report() {
  if (observer_ != nullptr) observer_->OnQueue(all_.requests, all_.tokens);
}

}  // namespace t2r

// Bounds how much may wait for a slot.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "engine/io/mutex.h"
#include "engine/scheduler/observer.h"

namespace t2r {

// Counts requests and prompt tokens, of all and of each tenant, from their reservation until they
// have a slot (or end). Any thread; the observer's OnQueue is called under the lock, so that
// reports come in order.
class Admission {
 public:
  // observer may be null, otherwise it must outlive this.
  Admission(int64_t max_requests, int64_t max_tokens, SchedulerObserver* observer)
      : max_requests_(max_requests), max_tokens_(max_tokens), observer_(observer) {}

  // Takes a place for a request of up to `tokens` tokens, of which at most half the limit counts:
  // so no request fills the queue alone. When nothing waits, any request fits; otherwise
  // RESOURCE_EXHAUSTED naming the limit that it would pass. share: the part of both limits, above
  // 0, that the tenant's requests may take together; when none of them waits, any of them fits.
  absl::Status Reserve(int64_t tokens, const std::string& tenant = "", double share = 1);
  // A place taken for `from` tokens now counts `to`; never fails.
  void Correct(int64_t from, int64_t to, const std::string& tenant = "");
  // Gives the place up.
  void Release(int64_t tokens, const std::string& tenant = "");

 private:
  struct Waiting {
    int64_t requests = 0;
    int64_t tokens = 0;
  };
  int64_t Counted(int64_t tokens) const;
  absl::Status CheckShare(int64_t tokens, const std::string& tenant, double share) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Report() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int64_t max_requests_;
  const int64_t max_tokens_;
  SchedulerObserver* const observer_;
  Mutex mu_;
  Waiting all_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Waiting> tenants_ ABSL_GUARDED_BY(mu_);  // that have something waiting
};

}  // namespace t2r

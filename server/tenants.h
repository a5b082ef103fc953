// Counts what each tenant does against what it may.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"
#include "server/file_watch.h"
#include "server/metrics.h"
#include "server/tenant_limits.h"

namespace t2r::server {

struct TenantsOptions {
  std::string file;  // a TenantFile; "": nobody has limits
  // A line about a file that was read anew, from a thread of its own; empty: nobody hears it.
  std::function<void(const std::string&)> log;
  std::function<absl::Time()> clock = [] { return absl::Now(); };
};

// A level that rises by `rate` a minute up to `rate`, where it also begins.
class TokenBucket {
 public:
  // What is there; rate > 0.
  double Level(int64_t rate, absl::Time now);
  // May leave a debt.
  void Take(double amount) { level_ -= amount; }
  // Until the level is at least `wanted`, from the last Level on.
  absl::Duration Until(double wanted, int64_t rate) const;

 private:
  double level_ = 0;
  absl::Time at_ = absl::InfinitePast();
};

// Thread-safe; must outlive its leases.
class Tenants {
 public:
  // INVALID_ARGUMENT in one line where the file is not good. It is read anew when it changes; one
  // that is not good is refused then, and the old limits stay.
  static absl::StatusOr<std::unique_ptr<Tenants>> Open(TenantsOptions options, Metrics& metrics);
  ~Tenants();

  // One request inside, given back at the lease's end.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept
        : tenants_(std::exchange(other.tenants_, nullptr)), tenant_(std::move(other.tenant_)) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(tenants_, other.tenants_);
      std::swap(tenant_, other.tenant_);
      return *this;
    }
    ~Lease();

   private:
    friend class Tenants;
    Tenants* tenants_ = nullptr;
    std::string tenant_;
  };

  TenantLimits LimitsOf(const std::string& tenant) const;
  // RESOURCE_EXHAUSTED naming the quota that the request would pass, and when to try again where
  // that is known (RetryOf).
  absl::Status Take(const std::string& tenant, Lease* lease);
  // Tokens that went through the model, or will. They count even where they are more than are left:
  // then the tenant has to wait for as long as they take to come back.
  void UseTokens(const std::string& tenant, int64_t tokens);
  // What stands for a tenant in metrics: its name where a file names it (named: the API keys' file
  // does), else "other". At most a thousand names, so that the metrics stay of a bounded size.
  std::string LabelOf(const std::string& tenant, bool named) const;

 private:
  struct State {
    int64_t inside = 0;
    TokenBucket requests;
    TokenBucket tokens;
  };

  Tenants(TenantsOptions options, Metrics& metrics)
      : options_(std::move(options)), metrics_(metrics) {}
  absl::Status Load();
  void Reload();
  State& StateOf(const std::string& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Check(const std::string& tenant, const TenantLimits& limits, State& state,
                     const char** quota) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const TenantsOptions options_;
  Metrics& metrics_;
  mutable Mutex mutex_;
  TenantFile file_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, State> states_ ABSL_GUARDED_BY(mutex_);
  mutable std::set<std::string> labels_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FileWatch> watch_;
};

}  // namespace t2r::server

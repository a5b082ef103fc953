#include "server/tenants.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/io/files.h"
#include "server/status.h"

namespace t2r::server {
namespace {

constexpr absl::Duration kLookInterval = absl::Seconds(1);
constexpr size_t kMaxStates = 4096;  // before those are forgotten that say nothing
constexpr size_t kMaxLabels = 1000;

}  // namespace

double TokenBucket::Level(int64_t rate, absl::Time now) {
  const auto full = static_cast<double>(rate);
  if (at_ == absl::InfinitePast()) {
    level_ = full;
  } else if (now > at_) {
    level_ += full * absl::ToDoubleMinutes(now - at_);
  }
  at_ = now;
  level_ = std::min(level_, full);
  return level_;
}

absl::Duration TokenBucket::Until(double wanted, int64_t rate) const {
  return absl::Minutes(std::max(wanted - level_, 0.0) / static_cast<double>(rate));
}

absl::StatusOr<std::unique_ptr<Tenants>> Tenants::Open(TenantsOptions options, Metrics& metrics) {
  std::unique_ptr<Tenants> tenants(new Tenants(std::move(options), metrics));
  const std::string& path = tenants->options_.file;
  if (path.empty()) return tenants;
  FileStamp seen = StampOf({path});
  if (absl::Status s = tenants->Load(); !s.ok()) return s;
  tenants->watch_ =
      std::make_unique<FileWatch>(std::vector<std::string>{path}, std::move(seen), kLookInterval,
                                  [self = tenants.get()] { self->Reload(); });
  return tenants;
}

// The watch calls a function of this object from its thread, and goes before what that uses.
Tenants::~Tenants() { watch_.reset(); }

absl::Status Tenants::Load() {
  const absl::StatusOr<std::string> text = ReadTextFile(options_.file);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tenants ", options_.file, ": cannot be read"));
  }
  absl::StatusOr<TenantFile> file = TenantFile::Parse(*text);
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tenants ", options_.file, ": ", file.status().message()));
  }
  const MutexLock lock(mutex_);
  file_ = *std::move(file);
  return absl::OkStatus();
}

void Tenants::Reload() {
  const absl::Status status = Load();
  metrics_.OnReload("tenants", status.ok());
  if (!options_.log) return;
  options_.log(status.ok() ? "tenants: read anew"
                           : absl::StrCat(status.message(), "; the old limits stay in use"));
}

TenantLimits Tenants::LimitsOf(const std::string& tenant) const {
  const MutexLock lock(mutex_);
  return file_.Of(tenant);
}

Tenants::State& Tenants::StateOf(const std::string& tenant) {
  if (states_.size() >= kMaxStates && states_.count(tenant) == 0) {
    const absl::Time now = options_.clock();
    const auto full = [now](TokenBucket& bucket, int64_t rate) {
      return rate == 0 || bucket.Level(rate, now) == static_cast<double>(rate);
    };
    for (auto at = states_.begin(); at != states_.end();) {
      const TenantLimits& limits = file_.Of(at->first);
      State& state = at->second;
      const bool says_nothing = state.inside == 0 &&
                                full(state.requests, limits.requests_per_minute) &&
                                full(state.tokens, limits.tokens_per_minute);
      at = says_nothing ? states_.erase(at) : std::next(at);
    }
  }
  return states_[tenant];
}

absl::Status Tenants::Check(const std::string& tenant, const TenantLimits& limits, State& state,
                            const char** quota) {
  const absl::Time now = options_.clock();
  const std::string who =
      tenant.empty() ? "who brings no name" : absl::StrCat("tenant '", tenant, "'");
  if (limits.max_requests > 0 && state.inside >= limits.max_requests) {
    *quota = "max_requests";
    return absl::ResourceExhaustedError(
        absl::StrCat(who, " has ", state.inside, " requests here already, the limit is ",
                     limits.max_requests, " (max_requests); try again later"));
  }
  const auto spent = [&](const char* name, int64_t rate, const char* of, absl::Duration wait) {
    *quota = name;
    return WithRetry(
        absl::ResourceExhaustedError(absl::StrCat(
            who, " has used up its ", rate, " ", of, " a minute (", name, "); try again in ",
            absl::FormatDuration(absl::Ceil(wait, absl::Milliseconds(1))))),
        wait);
  };
  if (const int64_t rate = limits.tokens_per_minute;
      rate > 0 && state.tokens.Level(rate, now) < 1) {
    return spent("tokens_per_minute", rate, "tokens", state.tokens.Until(1, rate));
  }
  if (const int64_t rate = limits.requests_per_minute; rate > 0) {
    if (state.requests.Level(rate, now) < 1) {
      return spent("requests_per_minute", rate, "requests", state.requests.Until(1, rate));
    }
    state.requests.Take(1);
  }
  return absl::OkStatus();
}

absl::Status Tenants::Take(const std::string& tenant, Lease* lease) {
  const char* quota = nullptr;
  absl::Status status;
  {
    const MutexLock lock(mutex_);
    State& state = StateOf(tenant);
    status = Check(tenant, file_.Of(tenant), state, &quota);
    if (status.ok()) ++state.inside;
  }
  if (!status.ok()) {
    metrics_.OnQuota(quota);
    return status;
  }
  lease->tenants_ = this;
  lease->tenant_ = tenant;
  return status;
}

Tenants::Lease::~Lease() {
  if (tenants_ == nullptr) return;
  const MutexLock lock(tenants_->mutex_);
  --tenants_->states_[tenant_].inside;
}

void Tenants::UseTokens(const std::string& tenant, int64_t tokens) {
  const MutexLock lock(mutex_);
  const int64_t rate = file_.Of(tenant).tokens_per_minute;
  if (rate == 0) return;
  State& state = StateOf(tenant);
  state.tokens.Level(rate, options_.clock());
  state.tokens.Take(static_cast<double>(tokens));
}

std::string Tenants::LabelOf(const std::string& tenant, bool named) const {
  const MutexLock lock(mutex_);
  if (tenant.empty() || (!named && !file_.Names(tenant))) return "other";
  if (labels_.count(tenant) > 0) return tenant;
  if (labels_.size() >= kMaxLabels) return "other";
  labels_.insert(tenant);
  return tenant;
}

}  // namespace t2r::server

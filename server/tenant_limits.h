// What each tenant may have, from a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "engine/scheduler/request.h"

namespace t2r::server {

// 0: no limit.
struct TenantLimits {
  int64_t max_requests = 0;         // at once, waiting ones included
  int64_t requests_per_minute = 0;  // and so many at once after a quiet minute
  int64_t tokens_per_minute = 0;    // prompts' and generated
  int64_t max_sessions = 0;         // that are kept
  int64_t max_session_bytes = 0;    // of their states
  double queue_share = 1;           // of --max-queue-requests and --max-queue-tokens
  int weight = 1;                   // of its turns in the queue
  Priority priority = Priority::kNormal;
};

// A JSON object:
//   {"default": {...}, "tenants": {"alice": {"max_requests": 8, "priority": "high"}, ...}}
// with the fields of TenantLimits. What an entry leaves out is as in "default", which counts for
// everybody else; what that leaves out is as above.
class TenantFile {
 public:
  static constexpr size_t kMaxBytes = 16 << 20;
  static constexpr size_t kMaxTenants = 10'000;

  // INVALID_ARGUMENT naming the field and its limit; a field that is not known is an error too.
  static absl::StatusOr<TenantFile> Parse(const std::string& text);

  const TenantLimits& Of(const std::string& tenant) const;
  bool Names(const std::string& tenant) const { return tenants_.count(tenant) > 0; }
  size_t size() const { return tenants_.size(); }

 private:
  TenantLimits others_;
  std::map<std::string, TenantLimits> tenants_;
};

}  // namespace t2r::server

#include "server/tenant_limits.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/json.h"

namespace t2r::server {
namespace {

constexpr int64_t kMany = int64_t{1} << 50;
constexpr size_t kMaxNameBytes = 256;

constexpr const char* kFields[] = {"max_requests",
                                   "requests_per_minute",
                                   "tokens_per_minute",
                                   "max_sessions",
                                   "max_session_bytes",
                                   "queue_share",
                                   "weight",
                                   "priority"};

template <size_t kCount>
absl::Status CheckKnown(const Json& object, const std::string& where,
                        const char* const (&known)[kCount]) {
  for (const auto& [key, value] : object.items()) {
    const std::string& name = key;
    const bool found = std::any_of(std::begin(known), std::end(known),
                                   [&name](const char* field) { return name == field; });
    if (!found) return InvalidAt(where, absl::StrCat("'", name, "' is no field of it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TenantLimits> ReadLimits(const Json& object, const std::string& where,
                                        const TenantLimits& absent) {
  if (!object.is_object()) return InvalidAt(where, "is not an object");
  if (absl::Status s = CheckKnown(object, where, kFields); !s.ok()) return s;
  JsonFields fields(object, where + ".");
  TenantLimits limits;
  limits.max_requests = fields.Integer("max_requests", 0, kMany, absent.max_requests);
  limits.requests_per_minute =
      fields.Integer("requests_per_minute", 0, kMany, absent.requests_per_minute);
  limits.tokens_per_minute =
      fields.Integer("tokens_per_minute", 0, kMany, absent.tokens_per_minute);
  limits.max_sessions = fields.Integer("max_sessions", 0, kMany, absent.max_sessions);
  limits.max_session_bytes =
      fields.Integer("max_session_bytes", 0, kMany, absent.max_session_bytes);
  limits.queue_share = fields.Number("queue_share", 0.001, 1, absent.queue_share);
  limits.weight = static_cast<int>(fields.Integer("weight", 1, 1000, absent.weight));
  static constexpr const char* kPriorityNames[] = {"high", "normal", "low"};
  const std::string priority =
      fields.String("priority", kPriorityNames[static_cast<size_t>(absent.priority)]);
  const auto* found = std::find(std::begin(kPriorityNames), std::end(kPriorityNames), priority);
  if (found == std::end(kPriorityNames)) {
    fields.Invalid("priority", "is not high, normal or low");
  } else {
    limits.priority = static_cast<Priority>(found - std::begin(kPriorityNames));
  }
  if (!fields.status().ok()) return fields.status();
  return limits;
}

}  // namespace

absl::StatusOr<TenantFile> TenantFile::Parse(const std::string& text) {
  absl::StatusOr<Json> root = ParseJsonObject(text, "tenants", kMaxBytes);
  if (!root.ok()) return root.status();
  static constexpr const char* kParts[] = {"default", "tenants"};
  if (absl::Status s = CheckKnown(*root, "the file", kParts); !s.ok()) return s;
  TenantFile file;
  if (const Json* others = FindField(*root, "default"); others != nullptr) {
    absl::StatusOr<TenantLimits> limits = ReadLimits(*others, "default", TenantLimits());
    if (!limits.ok()) return limits.status();
    file.others_ = *limits;
  }
  const Json* named = FindField(*root, "tenants");
  if (named == nullptr) return file;
  if (!named->is_object()) return InvalidAt("tenants", "is not an object");
  if (named->size() > kMaxTenants) {
    return InvalidAt("tenants",
                     absl::StrCat("has ", named->size(), " entries, the limit is ", kMaxTenants));
  }
  for (const auto& [name, value] : named->items()) {
    if (name.empty() || name.size() > kMaxNameBytes) {
      return InvalidAt("tenants", "a name is not 1 to 256 bytes long");
    }
    absl::StatusOr<TenantLimits> limits =
        ReadLimits(value, absl::StrCat("tenants.", name), file.others_);
    if (!limits.ok()) return limits.status();
    file.tenants_[name] = *limits;
  }
  return file;
}

const TenantLimits& TenantFile::Of(const std::string& tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? others_ : found->second;
}

}  // namespace t2r::server

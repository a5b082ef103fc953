#include "server/session_messages.h"

#include <algorithm>
#include <limits>

#include "absl/time/time.h"
#include "server/identity.h"

namespace t2r::server {
namespace {

constexpr int64_t kNanoseconds = 1'000'000'000;

SessionQuota QuotaOf(const TenantLimits& limits) {
  return {.max_sessions = limits.max_sessions, .max_bytes = limits.max_session_bytes};
}

void SetTime(absl::Time from, google::protobuf::Timestamp* to) {
  const int64_t seconds = absl::ToUnixSeconds(from);
  to->set_seconds(seconds);
  to->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(from - absl::FromUnixSeconds(seconds))));
}

}  // namespace

SessionOwner OwnerOf(const CallContext& context, const grpc::CallbackServerContext& rpc) {
  std::string tenant = TenantOf(context, rpc);
  SessionQuota quota = QuotaOf(context.tenants.LimitsOf(tenant));
  return {.name = std::move(tenant), .quota = quota};
}

SessionOwner OwnerOf(const CallRecord& record) {
  return {.name = record.tenant(), .quota = QuotaOf(record.limits())};
}

void ToProto(const SessionInfo& session, v1::Session* out) {
  out->set_id(session.id);
  out->set_position(static_cast<uint64_t>(session.position));
  out->set_bytes(static_cast<uint64_t>(session.bytes));
  SetTime(session.created, out->mutable_create_time());
  SetTime(session.used, out->mutable_use_time());
  SetTime(session.expires, out->mutable_expire_time());
  out->mutable_ttl()->set_seconds(absl::ToInt64Seconds(session.ttl));
  out->mutable_ttl()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(session.ttl % absl::Seconds(1))));
}

absl::StatusOr<absl::Duration> TtlOf(bool set, const google::protobuf::Duration& ttl) {
  if (!set) return absl::ZeroDuration();
  const bool valid = ttl.seconds() >= 0 && ttl.nanos() >= 0 && ttl.nanos() < kNanoseconds &&
                     (ttl.seconds() > 0 || ttl.nanos() > 0);
  if (valid) return absl::Seconds(ttl.seconds()) + absl::Nanoseconds(ttl.nanos());
  return absl::InvalidArgumentError(
      "session.ttl: it must be above 0; leave it unset for the "
      "server's");
}

absl::StatusOr<SessionStore::TurnRequest> FromProto(const v1::SessionRef& session) {
  SessionStore::TurnRequest request;
  request.id = session.id();
  request.create = session.create();
  if (session.has_expected_position()) {
    // No session is beyond 63 bits.
    request.expected_position = static_cast<int64_t>(
        std::min<uint64_t>(session.expected_position(), std::numeric_limits<int64_t>::max()));
  }
  if (session.has_resume_at()) {
    request.resume_at = static_cast<int64_t>(
        std::min<uint64_t>(session.resume_at(), std::numeric_limits<int64_t>::max()));
  }
  request.allow_inexact = session.allow_inexact();
  const absl::StatusOr<absl::Duration> ttl = TtlOf(session.has_ttl(), session.ttl());
  if (!ttl.ok()) return ttl.status();
  request.ttl = *ttl;
  return request;
}

absl::Status CheckKeepsSessions(const ServedModel& model) {
  if (model.sessions != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "session: this server keeps no sessions (--session-memory-mib 0)");
}

}  // namespace t2r::server

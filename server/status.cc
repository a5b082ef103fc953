#include "server/status.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/sessions/session_errors.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace t2r::server {
namespace {

constexpr char kRetry[] = "t2r/retry";

// When a session whose turn runs may be asked for again.
constexpr absl::Duration kBusyDelay = absl::Milliseconds(200);

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

grpc::Status ToGrpcStatus(const absl::Status& status, absl::Duration delay) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay % absl::Seconds(1))));
  google::rpc::Status rich;
  rich.set_code(static_cast<int32_t>(status.code()));
  rich.set_message(std::string(status.message()));
  rich.add_details()->PackFrom(retry);
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
          rich.SerializeAsString()};
}

grpc::Status ToRefusal(const absl::Status& status, absl::Duration delay) {
  if (absl::IsResourceExhausted(status)) {
    return ToGrpcStatus(status, RetryOf(status).value_or(delay));
  }
  if (absl::IsUnavailable(status)) return ToGrpcStatus(status, absl::Seconds(1));
  if (status.GetPayload(kSessionBusyUrl)) return ToGrpcStatus(status, kBusyDelay);
  return ToGrpcStatus(status);
}

absl::Status WithRetry(absl::Status status, absl::Duration delay) {
  status.SetPayload(kRetry, absl::Cord(absl::StrCat(absl::ToInt64Nanoseconds(delay))));
  return status;
}

std::optional<absl::Duration> RetryOf(const absl::Status& status) {
  const absl::optional<absl::Cord> text = status.GetPayload(kRetry);
  int64_t nanoseconds = 0;
  if (!text || !absl::SimpleAtoi(std::string(*text), &nanoseconds)) return std::nullopt;
  return absl::Nanoseconds(nanoseconds);
}

absl::Time DeadlineOf(std::chrono::system_clock::time_point deadline) {
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

bool HasPassed(absl::Time deadline, absl::Time begun) {
  if (deadline == absl::InfiniteFuture()) return false;
  const absl::Duration slack = std::max(absl::Milliseconds(20), (deadline - begun) / 32);
  return absl::Now() + std::min(slack, absl::Seconds(1)) >= deadline;
}

}  // namespace t2r::server

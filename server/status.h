// absl::Status to gRPC's, the one place where it happens.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace t2r::server {

grpc::Status ToGrpcStatus(const absl::Status& status);

// `status`, not OK, with a time after which to try again, and that time; nothing: none is known.
absl::Status WithRetry(absl::Status status, absl::Duration delay);
std::optional<absl::Duration> RetryOf(const absl::Status& status);

// The same with google.rpc.RetryInfo in grpc-status-details-bin: try again after `delay`.
grpc::Status ToGrpcStatus(const absl::Status& status, absl::Duration delay);

// What refuses a request of which nothing has been done. RESOURCE_EXHAUSTED says when to try again
// (RetryOf, else `delay`), and UNAVAILABLE to do so after a second, when another server may have
// been found.
grpc::Status ToRefusal(const absl::Status& status, absl::Duration delay);

// An RPC's deadline; infinite where the client set none.
absl::Time DeadlineOf(std::chrono::system_clock::time_point deadline);

// Whether a deadline is what ended an RPC: gRPC then cancels it, the scheduler ends the request by
// its own timer, and it is to be counted as a deadline, not as a client that went away.
//
// A client's own timer often fires, and its reset arrives, a little before the deadline that was
// computed here from what its header said, rounded, after its request had travelled: what is left
// of the time since `begun` may be a 32nd of it, and 20 ms in any case.
bool HasPassed(absl::Time deadline, absl::Time begun);

}  // namespace t2r::server

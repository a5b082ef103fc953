// One generation on the wire, with its retries; internal to client/.
#ifndef T2R_CLIENT_GENERATE_CALL_H_
#define T2R_CLIENT_GENERATE_CALL_H_

#include <functional>
#include <memory>

#include "client/client.h"
#include "client/resumption.h"
#include "engine/io/mutex.h"
#include "t2r/v1/generation.grpc.pb.h"

namespace grpc {
class Alarm;
}

namespace t2r::client {

// When a refused call is sent again, and when no more; shared by unary calls and streams.
class RetryPolicy {
 public:
  RetryPolicy(const CallOptions& options, absl::Time start)
      : deadline_(start + options.timeout), retries_left_(options.max_retries) {}

  absl::Time deadline() const { return deadline_; }
  // The time of the next try, which this counts; nullopt: the status is the call's result.
  std::optional<absl::Time> NextTry(const absl::Status& status, absl::Time now);

 private:
  absl::Time deadline_;
  int retries_left_;
};

// Owned by whoever runs it: the attempt under way or the timer before the next one, so it lives
// until on_done has returned and the attempts' contexts are gone. stub must outlive it; its
// destruction ends with on_released, after which it touches gRPC no more. Start once. All methods
// are for any thread.
struct GenerateCall::Impl : std::enable_shared_from_this<GenerateCall::Impl> {
 public:
  Impl(v1::Generation::Stub* stub, v1::GenerateRequest request, const CallOptions& options,
       Client::EventCallback on_event, Client::DoneCallback on_done,
       std::function<void(Impl*)> on_released);
  ~Impl();
  void Start();
  void Cancel();

 private:
  class Attempt;
  void StartAttempt();
  void AttemptDone(absl::Status status, bool got_event, bool got_finished);

  v1::Generation::Stub* const stub_;
  v1::GenerateRequest request_;  // changed between attempts
  const Client::EventCallback on_event_;
  const Client::DoneCallback on_done_;
  const std::function<void(Impl*)> on_released_;
  // Both touched by one attempt at a time.
  RetryPolicy retry_;
  Resumption resumption_;

  Mutex mutex_;  // never held over a call into gRPC or a callback
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Attempt> attempt_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_GENERATE_CALL_H_

#include "client/generate_call.h"

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "client/wire.h"

namespace t2r::client {

std::optional<absl::Time> RetryPolicy::NextTry(const absl::Status& status, absl::Time now) {
  if (retries_left_ <= 0 || status.ok()) return std::nullopt;
  const std::optional<absl::Duration> delay = RetryDelay(status);
  if (!delay) return std::nullopt;
  const absl::Time next = now + *delay;
  if (next >= deadline_) return std::nullopt;
  --retries_left_;
  return next;
}

// Lives from StartCall to the end of OnDone, through self_.
class GenerateCall::Impl::Attempt : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  explicit Attempt(std::shared_ptr<Impl> call) : call_(std::move(call)) {
    if (call_->retry_.deadline() != absl::InfiniteFuture()) {
      context_.set_deadline(absl::ToChronoTime(call_->retry_.deadline()));
    }
  }

  void Run(std::shared_ptr<Attempt> self) {
    self_ = std::move(self);
    call_->stub_->async()->Generate(&context_, &call_->request_, this);
    StartRead(&response_);
    StartCall();
  }

  void TryCancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // OnDone follows
    if (const std::optional<Event> event = FromProto(response_)) {
      got_event_ = true;
      got_finished_ |= std::holds_alternative<Finished>(*event);
      if (call_->resumption_.Passes(*event) && call_->on_event_) call_->on_event_(*event);
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Attempt> self = std::move(self_);
    call_->AttemptDone(
        MakeStatus(status.error_code(), status.error_message(), status.error_details()), got_event_,
        got_finished_);
  }

 private:
  const std::shared_ptr<Impl> call_;  // first, so that it outlives the context
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  bool got_event_ = false;
  bool got_finished_ = false;
  std::shared_ptr<Attempt> self_;
};

GenerateCall::Impl::Impl(v1::Generation::Stub* stub, v1::GenerateRequest request,
                         const CallOptions& options, Client::EventCallback on_event,
                         Client::DoneCallback on_done, std::function<void(Impl*)> on_released)
    : stub_(stub),
      request_(std::move(request)),
      on_event_(std::move(on_event)),
      on_done_(std::move(on_done)),
      on_released_(std::move(on_released)),
      retry_(options, absl::Now()),
      resumption_(options.resume_timeout, request_, absl::Now()) {}

GenerateCall::Impl::~Impl() {
  alarm_.reset();
  on_released_(this);
}

void GenerateCall::Impl::Start() {
  const absl::Status texts = CheckTexts(request_);
  if (texts.ok()) return StartAttempt();
  // Callbacks come from gRPC's threads, never from the caller's.
  auto alarm = std::make_shared<grpc::Alarm>();
  {
    const MutexLock lock(mutex_);
    alarm_ = alarm;
  }
  alarm->Set(std::chrono::system_clock::now(), [call = shared_from_this(), texts](bool) {
    {
      // The alarm holds the call, which holds the alarm.
      const MutexLock lock(call->mutex_);
      call->alarm_.reset();
    }
    call->on_done_(texts);
  });
}

void GenerateCall::Impl::StartAttempt() {
  std::shared_ptr<Attempt> attempt = std::make_shared<Attempt>(shared_from_this());
  bool cancelled = false;
  {
    const MutexLock lock(mutex_);
    cancelled = cancelled_;
    alarm_.reset();
    if (!cancelled) attempt_ = attempt;
  }
  if (cancelled) {
    on_done_(absl::CancelledError("cancelled by the client"));
    return;
  }
  attempt->Run(attempt);  // a Cancel from here on reaches it through its context
}

void GenerateCall::Impl::Cancel() {
  std::shared_ptr<Attempt> attempt;
  std::shared_ptr<grpc::Alarm> alarm;
  {
    const MutexLock lock(mutex_);
    cancelled_ = true;
    attempt = attempt_;
    alarm = alarm_;
  }
  if (attempt) attempt->TryCancel();
  if (alarm) alarm->Cancel();
}

void GenerateCall::Impl::AttemptDone(absl::Status status, bool got_event, bool got_finished) {
  if (status.ok() && !got_finished) {
    status = absl::InternalError("the server ended the stream without saying how it finished");
  }
  std::optional<absl::Time> next;
  bool given_up = false;
  {
    const MutexLock lock(mutex_);
    given_up = cancelled_;
  }
  if (!given_up) next = resumption_.NextTry(status, absl::Now(), &request_);
  if (next && *next >= retry_.deadline()) next.reset();
  if (!next && !got_event) next = retry_.NextTry(status, absl::Now());
  std::shared_ptr<grpc::Alarm> alarm;
  {
    const MutexLock lock(mutex_);
    attempt_.reset();
    if (next && cancelled_) status = absl::CancelledError("cancelled before the next try");
    if (next && !cancelled_) alarm = alarm_ = std::make_shared<grpc::Alarm>();
  }
  if (!alarm) {
    on_done_(status);
    return;
  }
  // Early (ok false) only by Cancel, which StartAttempt sees.
  alarm->Set(absl::ToChronoTime(*next),
             [call = shared_from_this()](bool) { call->StartAttempt(); });
  bool cancelled = false;
  {
    const MutexLock lock(mutex_);
    cancelled = cancelled_;
  }
  if (cancelled) alarm->Cancel();  // a Cancel before Set had no effect on the alarm
}

void GenerateCall::Cancel() const {
  if (const std::shared_ptr<Impl> impl = impl_.lock()) impl->Cancel();
}

}  // namespace t2r::client

#include "server/health_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "server/messages.h"
#include "server/status.h"
#include "server/unary_end.h"

namespace t2r::server {
namespace {

using Request = grpc::health::v1::HealthCheckRequest;
using Response = grpc::health::v1::HealthCheckResponse;

bool Known(const std::string& service) { return service.empty() || service == "t2r.v1.Generation"; }

Response::ServingStatus ToStatus(bool serving) {
  return serving ? Response::SERVING : Response::NOT_SERVING;
}

}  // namespace

class HealthService::Checker final : public grpc::ServerUnaryReactor {
 public:
  Checker(CallContext& context, grpc::CallbackServerContext& rpc, grpc::ByteBuffer* response)
      : guard_(context.watch, rpc), end_(context, guard_, *this, response) {}
  UnaryEnd& end() { return end_; }
  void OnCancel() override { end_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  CallGuard guard_;
  UnaryEnd end_;
};

// One Watch. Writes the state whenever it differs from the one written last; what passes while a
// write is in flight is skipped. A client that does not take a state is cut.
class HealthService::Watcher final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                                     public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(HealthService& service, grpc::CallbackServerContext& rpc, absl::Status refusal,
          bool known)
      : service_(service),
        guard_(service.context_.watch, rpc),
        refusal_(std::move(refusal)),
        known_(known) {}

  // Something has changed: writes or ends as the service's state asks for.
  void Pump() {
    std::unique_lock lock(mutex_);
    if (writing_ || finishing_) return;
    const State state = service_.state();
    const Response::ServingStatus status =
        known_ ? ToStatus(state.serving) : Response::SERVICE_UNKNOWN;
    if (!cancelled_ && refusal_.ok() && status != written_) {
      written_ = status;
      Response response;
      response.set_status(status);
      message_ = ToBytes(response);
      writing_ = true;
      CutLater();
      lock.unlock();
      StartWrite(&message_);
    } else if (cancelled_ || !refusal_.ok() || state.stopped) {
      finishing_ = true;
      const bool gone = cancelled_;
      CutLater();
      lock.unlock();
      Finish(gone ? grpc::Status::CANCELLED
             : !refusal_.ok()
                 ? ToGrpcStatus(refusal_)
                 : ToGrpcStatus(absl::UnavailableError("the server is shutting down")));
    }
  }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      guard_.CutAt(absl::InfiniteFuture());
      if (!ok) cancelled_ = true;
    }
    Pump();
  }

  void OnCancel() override {
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
    }
    Pump();
  }

  void OnDone() override {
    guard_.Done();
    service_.Forget(this);
  }

 private:
  void CutLater() {
    const absl::Duration limit = service_.context_.reading.stall_timeout;
    if (limit > absl::ZeroDuration()) guard_.CutAt(absl::Now() + limit);
  }

  HealthService& service_;
  CallGuard guard_;
  const absl::Status refusal_;
  const bool known_;
  std::mutex mutex_;
  std::optional<Response::ServingStatus> written_;
  bool writing_ = false;
  bool finishing_ = false;
  bool cancelled_ = false;
  grpc::ByteBuffer message_;
};

HealthService::HealthService(CallContext& context) : context_(context) {}
HealthService::~HealthService() = default;

HealthService::State HealthService::state() {
  const std::lock_guard lock(mutex_);
  return state_;
}

void HealthService::SetServing(bool serving) {
  {
    const std::lock_guard lock(mutex_);
    if (state_.stopped) return;
    state_.serving = serving;
  }
  PumpAll();
}

void HealthService::Shutdown() {
  {
    const std::lock_guard lock(mutex_);
    state_ = {.serving = false, .stopped = true};
  }
  PumpAll();
}

void HealthService::PumpAll() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::lock_guard lock(mutex_);
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  for (const auto& watcher : watchers) watcher->Pump();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* rpc,
                                               const grpc::ByteBuffer* request,
                                               grpc::ByteBuffer* response) {
  auto checker = std::make_unique<Checker>(context_, *rpc, response);
  Request message;
  absl::Status status = ParseMessage(TakeMessage(request), &message);
  // The name is not repeated: it may be as long as a request.
  if (status.ok() && !Known(message.service())) {
    status = absl::NotFoundError("service: not one of this server's (\"\", \"t2r.v1.Generation\")");
  }
  if (status.ok()) {
    Response answer;
    answer.set_status(ToStatus(state().serving));
    checker->end().Answer(answer);
  } else {
    checker->end().Fail(status);
  }
  return checker.release();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* HealthService::Watch(grpc::CallbackServerContext* rpc,
                                                                 const grpc::ByteBuffer* request) {
  Request message;
  absl::Status status = ParseMessage(TakeMessage(request), &message);
  auto watcher =
      std::make_shared<Watcher>(*this, *rpc, std::move(status), Known(message.service()));
  {
    const std::lock_guard lock(mutex_);
    watchers_.insert(watcher);
  }
  watcher->Pump();
  return watcher.get();
}

void HealthService::Forget(Watcher* watcher) {
  std::shared_ptr<Watcher> last;  // freed outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(watcher->shared_from_this());
  last = *found;
  watchers_.erase(found);
}

}  // namespace t2r::server

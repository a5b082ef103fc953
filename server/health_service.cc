#include "server/health_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/io/mutex.h"
#include "server/messages.h"
#include "server/status.h"
#include "server/unary_end.h"

namespace t2r::server {
namespace {

using Request = grpc::health::v1::HealthCheckRequest;
using Response = grpc::health::v1::HealthCheckResponse;

// What a request asks about.
enum class About : uint8_t { kProcess, kService, kUnknown };

About AboutWhat(const std::string& service) {
  if (service.empty()) return About::kProcess;
  const bool known = service == "t2r.v1.Generation" || service == "t2r.v1.Sessions";
  return known ? About::kService : About::kUnknown;
}

Response::ServingStatus ToStatus(bool serving) {
  return serving ? Response::SERVING : Response::NOT_SERVING;
}

}  // namespace

class HealthService::Checker final : public grpc::ServerUnaryReactor {
 public:
  Checker(CallContext& context, grpc::CallbackServerContext& rpc, grpc::ByteBuffer* response)
      : guard_(context.watch, rpc), end_(context, guard_, nullptr, *this, response) {}
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
          About about)
      : service_(service),
        guard_(service.context_.watch, rpc),
        refusal_(std::move(refusal)),
        about_(about) {}

  // Something has changed: writes or ends as the service's state asks for.
  void Pump() {
    MutexLock lock(mutex_);
    if (writing_ || finishing_) return;
    const State state = service_.state();
    const Response::ServingStatus status =
        about_ == About::kUnknown ? Response::SERVICE_UNKNOWN
                                  : ToStatus(about_ == About::kProcess ? state.alive : state.ready);
    if (!cancelled_ && refusal_.ok() && status != written_) {
      written_ = status;
      Response response;
      response.set_status(status);
      message_ = ToBytes(response);
      writing_ = true;
      CutLater();
      lock.Unlock();
      StartWrite(&message_);
    } else if (cancelled_ || !refusal_.ok() || state.stopped) {
      finishing_ = true;
      const bool gone = cancelled_;
      CutLater();
      lock.Unlock();
      Finish(gone ? grpc::Status::CANCELLED
             : !refusal_.ok()
                 ? ToGrpcStatus(refusal_)
                 : ToGrpcStatus(absl::UnavailableError("the server is shutting down")));
    }
  }

  void OnWriteDone(bool ok) override {
    {
      const MutexLock lock(mutex_);
      writing_ = false;
      guard_.CutAt(absl::InfiniteFuture());
      if (!ok) cancelled_ = true;
    }
    Pump();
  }

  void OnCancel() override {
    {
      const MutexLock lock(mutex_);
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
  const About about_;
  Mutex mutex_;
  std::optional<Response::ServingStatus> written_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer message_;
};

HealthService::HealthService(CallContext& context) : context_(context) {}
HealthService::~HealthService() = default;

HealthService::State HealthService::state() {
  const MutexLock lock(mutex_);
  return state_;
}

void HealthService::Set(bool alive, bool ready) {
  {
    const MutexLock lock(mutex_);
    if (state_.stopped) return;
    state_.alive = alive;
    state_.ready = ready;
  }
  PumpAll();
}

void HealthService::Shutdown() {
  {
    const MutexLock lock(mutex_);
    state_ = {.alive = false, .ready = false, .stopped = true};
  }
  PumpAll();
}

void HealthService::PumpAll() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const MutexLock lock(mutex_);
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
  const About about = AboutWhat(message.service());
  if (status.ok() && about == About::kUnknown) {
    status = absl::NotFoundError("service: not one of this server's (\"\", \"t2r.v1.Generation\")");
  }
  if (status.ok()) {
    Response answer;
    const State now = state();
    answer.set_status(ToStatus(about == About::kProcess ? now.alive : now.ready));
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
      std::make_shared<Watcher>(*this, *rpc, std::move(status), AboutWhat(message.service()));
  {
    const MutexLock lock(mutex_);
    watchers_.insert(watcher);
  }
  watcher->Pump();
  return watcher.get();
}

void HealthService::Forget(Watcher* watcher) {
  std::shared_ptr<Watcher> last;  // freed outside the lock
  const MutexLock lock(mutex_);
  const auto found = watchers_.find(watcher->shared_from_this());
  last = *found;
  watchers_.erase(found);
}

}  // namespace t2r::server

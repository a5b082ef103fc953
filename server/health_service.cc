#include "server/health_service.h"

#include <optional>
#include <string>
#include <vector>

namespace t2r::server {
namespace {

bool Known(const std::string& service) { return service.empty() || service == "t2r.v1.Generation"; }

HealthService::Response::ServingStatus ToStatus(bool serving) {
  return serving ? HealthService::Response::SERVING : HealthService::Response::NOT_SERVING;
}

}  // namespace

// One Watch. Writes the state whenever it differs from the one written last; what passes while a
// write is in flight is skipped.
class HealthService::Watcher final : public grpc::ServerWriteReactor<Response>,
                                     public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(HealthService& service, bool known) : service_(service), known_(known) {}

  // Something has changed: writes or ends as the service's state asks for.
  void Pump() {
    std::unique_lock lock(mutex_);
    if (writing_ || finishing_) return;
    const bool ending = service_.stopped_;  // before the state: the last one is still written
    const Response::ServingStatus status =
        known_ ? ToStatus(service_.serving_) : Response::SERVICE_UNKNOWN;
    if (!cancelled_ && status != written_) {
      written_ = status;
      message_.set_status(status);
      writing_ = true;
      lock.unlock();
      StartWrite(&message_);
    } else if (cancelled_ || ending) {
      finishing_ = true;
      const bool gone = cancelled_;
      lock.unlock();
      Finish(gone ? grpc::Status::CANCELLED
                  : grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
    }
  }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
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

  void OnDone() override { service_.Forget(this); }

 private:
  HealthService& service_;
  const bool known_;
  std::mutex mutex_;
  std::optional<Response::ServingStatus> written_;
  bool writing_ = false;
  bool finishing_ = false;
  bool cancelled_ = false;
  Response message_;
};

HealthService::HealthService() = default;
HealthService::~HealthService() = default;

void HealthService::SetServing(bool serving) {
  if (stopped_) return;
  serving_ = serving;
  PumpAll();
}

void HealthService::Shutdown() {
  serving_ = false;
  stopped_ = true;
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
                                               const Request* request, Response* response) {
  grpc::ServerUnaryReactor* reactor = rpc->DefaultReactor();
  if (!Known(request->service())) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND,
                                 "service: '" + request->service() + "' is not known here"));
    return reactor;
  }
  response->set_status(ToStatus(serving_));
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthService::Response>* HealthService::Watch(
    grpc::CallbackServerContext* /*rpc*/, const Request* request) {
  auto watcher = std::make_shared<Watcher>(*this, Known(request->service()));
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

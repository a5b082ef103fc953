// grpc.health.v1, our own: gRPC's says SERVING before a model is loaded, and its open Watches hold
// up the shutdown.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <set>

#include "grpc/health/v1/health.grpc.pb.h"

namespace t2r::server {

// Knows "" (the server) and "t2r.v1.Generation", both NOT_SERVING until SetServing. Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  using Request = grpc::health::v1::HealthCheckRequest;
  using Response = grpc::health::v1::HealthCheckResponse;

  HealthService();
  ~HealthService() override;

  // Tells every Watch of a known service.
  void SetServing(bool serving);
  // Ends every Watch, and later ones at once, with UNAVAILABLE after a NOT_SERVING.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* rpc, const Request* request,
                                  Response* response) override;
  grpc::ServerWriteReactor<Response>* Watch(grpc::CallbackServerContext* rpc,
                                            const Request* request) override;

 private:
  class Watcher;
  void Forget(Watcher* watcher);
  void PumpAll();

  std::atomic<bool> serving_{false};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::set<std::shared_ptr<Watcher>> watchers_;
};

}  // namespace t2r::server

// grpc.health.v1, our own: gRPC's says SERVING before a model is loaded, and its open Watches hold
// up the shutdown.
#pragma once

#include <memory>
#include <set>

#include "engine/io/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/call_context.h"

namespace t2r::server {

// Knows "", "t2r.v1.Generation" and "t2r.v1.Sessions". As Kubernetes' probes have it, "" is the
// process: SERVING from the start on, until its device fails or it shuts down. A service's name
// tells whether requests are taken: a balancer watches that one. Takes and gives bytes; see
// messages.h. Thread-safe.
class HealthService final : public grpc::health::v1::Health::WithRawCallbackMethod_Check<
                                grpc::health::v1::Health::WithRawCallbackMethod_Watch<
                                    grpc::health::v1::Health::Service>> {
 public:
  // `context` must outlive the service and every RPC.
  explicit HealthService(CallContext& context);
  ~HealthService() override;

  // Tells every Watch of a known service. After Shutdown it does nothing.
  void Set(bool alive, bool ready);
  // Ends every Watch, and later ones at once, with UNAVAILABLE after a NOT_SERVING.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext* rpc,
                                                    const grpc::ByteBuffer* request) override;

 private:
  class Checker;
  class Watcher;
  struct State {
    bool alive = true;
    bool ready = false;
    bool stopped = false;
  };
  State state();
  void Forget(Watcher* watcher);
  // Tells every watcher of a state that has been set. Takes the lock.
  void PumpAll();

  CallContext& context_;
  Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_);
  std::set<std::shared_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace t2r::server

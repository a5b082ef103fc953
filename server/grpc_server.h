// The gRPC port: services, limits, keepalive, and the order in which it all ends.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/call_context.h"
#include "server/credentials.h"
#include "server/listener.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/served_model.h"

namespace t2r::server {

// Listens from Start on, answering UNAVAILABLE until SetModel.
//
// Ends in this order: ModelHost::Drain and Scheduler::Drain, Shutdown, the scheduler, this object.
class GrpcServer {
 public:
  // `metrics` must outlive the server. UNAVAILABLE naming the address if it cannot listen;
  // INVALID_ARGUMENT naming the file where certificates or keys are not good.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           Metrics& metrics);
  ~GrpcServer();

  // The certificates, for other ports.
  std::shared_ptr<const Access> access() const;
  // HOST:PORT with the port in use.
  const std::string& address() const;
  // Serves `model` from now on (health: SERVING). It must live until Shutdown has returned.
  void SetModel(ServedModel* model);
  // Whether the model's device has failed.
  bool failed() const;
  // Whether requests are being taken.
  bool serving() const;
  // Whether a connection of our own is answered within `timeout`. Any thread.
  bool Answers(absl::Duration timeout);
  // The model's device has failed: refuses new requests with UNAVAILABLE (health: NOT_SERVING).
  // Any thread.
  void DeviceFailed();
  // Refuses new requests with UNAVAILABLE (health: NOT_SERVING) and lets the others go on.
  void StopTaking();
  // Until no text is being or waits to be tokenised, at most until `deadline`.
  void FinishTexts(absl::Time deadline);
  // Stops listening, drops the texts that wait, and waits for the RPCs to end, at most `grace`;
  // then cancels those that are left. No RPC and no worker touches the model after it. Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r::server

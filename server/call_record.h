// What every RPC does beside its work: takes its shares, and is counted, logged and traced.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/scheduler/request.h"
#include "server/call_context.h"
#include "server/call_facts.h"
#include "server/peer_shares.h"
#include "server/tenants.h"

namespace t2r::server {

// A member of a call, made in its reaction. Its shares are given back, and its line and spans
// written, when it goes: after gRPC and the scheduler have let the call go, on whatever thread that
// is; nothing of it waits.
class CallRecord {
 public:
  // Takes the call's x-request-id, or makes one, and returns it in the trailing metadata. method:
  // "t2r.v1.Generation/Generate", of static storage.
  CallRecord(CallContext& context, grpc::CallbackServerContext& rpc, const char* method);
  ~CallRecord();
  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  const std::string& tenant() const { return facts_.tenant; }
  // As they were when the call came.
  const TenantLimits& limits() const { return limits_; }
  absl::Time begun() const { return facts_.begun; }

  // Takes the call's shares: its address's and its tenant's. RESOURCE_EXHAUSTED naming the limit.
  absl::Status Enter();

  // ---- By whoever has the call, one after the other ----
  // The session that it names or made; more than an id can have is cut off.
  void OnSession(const std::string& id);
  // Where prompts are logged.
  void KeepPrompt(const std::string& text);
  void OnTokenise(absl::Time begun, absl::Time ended);
  // Before the scheduler gets it.
  void OnSubmit(const Request& request);
  void OnFinished(const FinishEvent& event);

  // Its status goes to gRPC: once, from any thread.
  void OnEnd(const grpc::Status& status);

 private:
  CallContext& context_;
  CallFacts facts_;
  TenantLimits limits_;
  PeerShares::Share share_;
  Tenants::Lease lease_;
};

}  // namespace t2r::server

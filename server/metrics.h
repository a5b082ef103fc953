// What the service measures, as Prometheus metrics: vLLM's names and units after the prefix t2r_.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/executor/memory_plan.h"
#include "engine/scheduler/observer.h"
#include "engine/sessions/session_info.h"
#include "engine/sessions/watched_tier.h"
#include "server/call_facts.h"

namespace t2r::server {

// Owns every series. The observer's functions are called by the scheduler; each costs some tens of
// nanoseconds (all series are looked up once, here). Thread-safe.
class Metrics : public SchedulerObserver, public SessionObserver {
 public:
  Metrics();
  ~Metrics() override;

  // Once the model is loaded: its slots and the bytes of one session's state.
  void SetModel(int slots, int64_t state_bytes);
  // Once the model is loaded: where its memory goes.
  void SetMemory(const MemoryPlan& plan);
  // What the edge holds, asked for by Text; empty functions are 0. Replaces the one before.
  struct Edge {
    std::function<int64_t()> connections, refused_connections, buffer_bytes;
    // Counts that only grow.
    std::function<int64_t()> lost_lines, traces_sent, traces_dropped;
  };
  void WatchEdge(Edge edge);
  // When the certificate ends, and how many API keys are known.
  void SetCertificateExpiry(absl::Time expiry);
  void SetApiKeys(int64_t count);
  // Files were read anew; not good: the old ones stay. what: "certificate", "keys" or "tenants".
  void OnReload(const std::string& what, bool good);
  // The sessions that are kept between turns, likewise.
  struct Sessions {
    std::function<SessionUsage()> in_memory, on_disk, shared;
  };
  void WatchSessions(Sessions sessions);
  // What the probes say.
  void SetHealth(bool ready, bool alive);
  // A call is over. tenant: the label that stands for who called.
  void OnCall(const std::string& tenant, const CallFacts& facts);
  // A call was refused for a tenant's quota, of this name.
  void OnQuota(const char* quota);
  // A Generate or Score that never reached the scheduler's queue.
  void OnRefused(absl::StatusCode code);
  // When a refused request may try again: about the time that the waiting ones need to get their
  // sessions, from the recent rate of finishes; between 0.1 and 30 seconds.
  absl::Duration RetryDelay() const;

  // The page, in Prometheus' text format.
  std::string Text() const;

  void OnSessionMove(const char* tier, bool stored, absl::Duration time) override;
  void OnSessionStoreError(const char* tier) override;

  void OnSubmitted() override;
  void OnQueue(int64_t requests, int64_t tokens) override;
  void OnSessions(int running, int slots_used) override;
  void OnStep(const StepReport& step) override;
  void OnPrefixes(const PrefixStats& stats) override;
  void OnNotFinite() override;
  void OnFirstToken(absl::Duration since_submit) override;
  void OnFinished(const FinishEvent& event, absl::Duration since_submit) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r::server

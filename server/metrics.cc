#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>
#include <vector>

#include "engine/io/mutex.h"
#include "engine/ops/enum_names.h"

namespace t2r::server {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

// Bucket bounds in seconds, as in vLLM, with finer ones below: a small model needs them.
const Histogram::BucketBoundaries kFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08,
                                                        0.1,   0.25,  0.5,  0.75, 1.0,  2.5,  5.0,
                                                        7.5,   10.0,  20.0, 40.0, 80.0};
const Histogram::BucketBoundaries kTokenBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                   0.05,   0.075, 0.1,    0.15,  0.2,  0.3,
                                                   0.4,    0.5,   0.75,   1.0,   2.5,  5.0};
const Histogram::BucketBoundaries kRequestBuckets = {0.01, 0.05, 0.1,  0.3,  0.5,  0.8,   1.0,
                                                     1.5,  2.0,  2.5,  5.0,  10.0, 15.0,  20.0,
                                                     30.0, 60.0, 120., 240., 480., 1920., 7680.};
const Histogram::BucketBoundaries kLengthBuckets = {
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
const Histogram::BucketBoundaries kMoveBuckets = {0.0001, 0.00025, 0.0005, 0.001, 0.0025,
                                                  0.005,  0.01,    0.025,  0.05,  0.1,
                                                  0.25,   0.5,     1.0,    2.5,   5.0};
const Histogram::BucketBoundaries kStepBuckets = {1,  2,   4,   8,   16,   32,
                                                  64, 128, 256, 512, 1024, 2048};

// absl::ToDoubleSeconds divides numbers of 128 bits: too slow for every step.
double Seconds(absl::Duration time) {
  return static_cast<double>(absl::ToInt64Nanoseconds(time)) * 1e-9;
}

// What a histogram has still to be told: telling it costs more than a step does in the scheduler.
class Untold {
 public:
  explicit Untold(const Histogram::BucketBoundaries& bounds)
      : bounds_(bounds), counts_(bounds.size() + 1) {}

  void Add(double value, double times = 1) {
    // Mostly it is the bucket of the value before.
    if ((last_ < bounds_.size() && value > bounds_[last_]) ||
        (last_ > 0 && value <= bounds_[last_ - 1])) {
      const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
      last_ = static_cast<size_t>(bound - bounds_.begin());
    }
    counts_[last_] += times;
    sum_ += value * times;
  }
  void Tell(Histogram& histogram) {
    histogram.ObserveMultiple(counts_, std::exchange(sum_, 0.0));
    std::fill(counts_.begin(), counts_.end(), 0.0);
  }

 private:
  const Histogram::BucketBoundaries& bounds_;
  std::vector<double> counts_;  // of each bucket
  size_t last_ = 0;
  double sum_ = 0;
};

// Of steps, since the last Text.
struct Steps {
  Untold gaps{kTokenBuckets};
  Untold tokens{kStepBuckets};
  Untold times{kTokenBuckets};
  int64_t prompt_tokens = 0;
  int64_t later_tokens = 0;  // generated, but for first ones
};

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;

  Gauge& MakeGauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
  }
  Counter& MakeCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
  }
  Histogram& MakeHistogram(const char* name, const char* help,
                           const Histogram::BucketBoundaries& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }

  Gauge& running = MakeGauge("t2r_num_requests_running", "Requests that have a session.");
  Gauge& waiting = MakeGauge("t2r_num_requests_waiting", "Requests that wait for a session.");
  Gauge& queue_tokens = MakeGauge("t2r_queue_tokens", "Prompt tokens of the waiting requests.");
  Gauge& slots_used = MakeGauge("t2r_slots_used", "Session slots in use.");
  Gauge& slots = MakeGauge("t2r_slots", "Session slots.");
  Gauge& state_bytes = MakeGauge("t2r_state_bytes", "Recurrent state of the sessions in use.");
  Gauge& session_bytes =
      MakeGauge("t2r_session_state_bytes", "Recurrent state of one session, whatever its length.");
  Family<Gauge>& memory =
      prometheus::BuildGauge()
          .Name("t2r_memory_bytes")
          .Help("Memory that the model runs in, by what it was given to at the start.")
          .Register(registry);
  Counter& started = MakeCounter("t2r_requests_started_total",
                                 "Requests that entered the queue; each leaves through exactly one "
                                 "t2r_request_success_total.");
  Family<Counter>& finished_family =
      prometheus::BuildCounter()
          .Name("t2r_request_success_total")
          .Help("Requests that left the engine, by the reason they ended.")
          .Register(registry);
  std::map<FinishReason, Counter*> finished;  // every reason
  Family<Counter>& refused = prometheus::BuildCounter()
                                 .Name("t2r_requests_refused_total")
                                 .Help("Requests that never entered the queue, by status code.")
                                 .Register(registry);
  Counter& prompt_tokens =
      MakeCounter("t2r_prompt_tokens_total", "Prompt tokens that went through the model.");
  Counter& generated_tokens = MakeCounter("t2r_generation_tokens_total", "Tokens generated.");
  Histogram& first_token =
      MakeHistogram("t2r_time_to_first_token_seconds",
                    "From entering the queue to the first generated token.", kFirstTokenBuckets);
  Histogram& inter_token =
      MakeHistogram("t2r_inter_token_latency_seconds",
                    "Between a request's consecutive generated tokens.", kTokenBuckets);
  Histogram& end_to_end =
      MakeHistogram("t2r_e2e_request_latency_seconds",
                    "From entering the queue to the end of the request.", kRequestBuckets);
  Histogram& queue_time = MakeHistogram("t2r_request_queue_time_seconds",
                                        "From entering the queue to a session.", kRequestBuckets);
  Histogram& prefill_time =
      MakeHistogram("t2r_request_prefill_time_seconds",
                    "From the session's start to the end of its prompt.", kRequestBuckets);
  Histogram& decode_time =
      MakeHistogram("t2r_request_decode_time_seconds",
                    "From the end of the prompt to the end of the request.", kRequestBuckets);
  Histogram& prompt_length =
      MakeHistogram("t2r_request_prompt_tokens", "Prompt tokens of a request.", kLengthBuckets);
  Histogram& generated_length = MakeHistogram("t2r_request_generation_tokens",
                                              "Tokens generated for a request.", kLengthBuckets);
  Histogram& step_tokens =
      MakeHistogram("t2r_iteration_tokens", "Tokens of one engine step.", kStepBuckets);
  Histogram& step_time =
      MakeHistogram("t2r_iteration_time_seconds",
                    "Time of one engine step, with the turn around it.", kTokenBuckets);

  Counter& not_finite = MakeCounter("t2r_not_finite_logits_total",
                                    "Requests that ended because the model's logits were NaN or "
                                    "infinite.");
  Gauge& connections = MakeGauge("t2r_connections", "Client connections that are open.");
  Gauge& refused_connections =
      MakeGauge("t2r_connections_refused", "Connections closed for a limit so far.");
  Gauge& buffer_bytes =
      MakeGauge("t2r_buffer_bytes", "Request messages, outboxes and answers in memory.");
  Family<Gauge>& sessions_kept = prometheus::BuildGauge()
                                     .Name("t2r_sessions")
                                     .Help("Sessions that are kept, by where their states lie.")
                                     .Register(registry);
  Family<Gauge>& sessions_bytes = prometheus::BuildGauge()
                                      .Name("t2r_sessions_bytes")
                                      .Help(
                                          "What sessions take, by where their states lie; in "
                                          "memory with what running turns reserve.")
                                      .Register(registry);
  struct Tier {
    Gauge& sessions;
    Gauge& bytes;
  };
  Tier MakeTier(const char* name) {
    return {sessions_kept.Add({{"tier", name}}), sessions_bytes.Add({{"tier", name}})};
  }
  Tier tier_memory = MakeTier("memory");
  Tier tier_disk = MakeTier("disk");
  Tier tier_shared = MakeTier("shared");
  Family<Counter>& store_errors =
      prometheus::BuildCounter()
          .Name("t2r_session_store_errors_total")
          .Help(
              "What a tier of sessions could not do: it was away, full, or what it holds is "
              "damaged.")
          .Register(registry);
  Family<Histogram>& moves = prometheus::BuildHistogram()
                                 .Name("t2r_session_move_seconds")
                                 .Help("Bringing a session's state to a tier, or back.")
                                 .Register(registry);
  std::map<std::string, Counter*> tier_errors;
  std::map<std::pair<std::string, bool>, Histogram*> tier_moves;  // stored
  Counter& prefix_queries = MakeCounter("t2r_prefix_cache_queries_total",
                                        "Prompt tokens for which a kept state was looked for.");
  Counter& prefix_hits =
      MakeCounter("t2r_prefix_cache_hits_total", "Prompt tokens that a kept state saved.");
  Counter& prefix_evictions = MakeCounter("t2r_prefix_cache_evictions_total",
                                          "States of prompts' beginnings that went for others.");
  Gauge& prefix_states =
      MakeGauge("t2r_prefix_cache_states", "States of prompts' beginnings that are kept.");
  Gauge& prefix_bytes =
      MakeGauge("t2r_prefix_cache_bytes", "Memory that they take, with their pages.");
  Gauge& ready = MakeGauge("t2r_ready", "1 while requests are taken, as /readyz says.");
  Gauge& alive = MakeGauge("t2r_alive", "0 where only a restart helps, as /livez says.");
  Gauge& certificate_expiry = MakeGauge("t2r_tls_certificate_expiry_timestamp_seconds",
                                        "When the server's certificate ends; 0 without TLS.");
  Gauge& api_keys = MakeGauge("t2r_api_keys",
                              "API keys that are known; 0 without --api-keys: none is asked for.");
  Family<Counter>& reloads =
      prometheus::BuildCounter()
          .Name("t2r_reloads_total")
          .Help(
              "Certificates, keys and tenants' limits that changed and were read anew; "
              "refused: they were not good, and the old ones stay.")
          .Register(registry);
  Family<Counter>& tenant_calls = prometheus::BuildCounter()
                                      .Name("t2r_tenant_requests_total")
                                      .Help("Calls that are over, by tenant and status code.")
                                      .Register(registry);
  Family<Counter>& tenant_tokens =
      prometheus::BuildCounter()
          .Name("t2r_tenant_tokens_total")
          .Help(
              "Tokens of calls that are over, by tenant: prompt, cached (of these, not run), "
              "completion.")
          .Register(registry);
  Family<Histogram>& tenant_first_token =
      prometheus::BuildHistogram()
          .Name("t2r_tenant_time_to_first_token_seconds")
          .Help("From a call's arrival to its first generated token, by tenant.")
          .Register(registry);
  Family<Counter>& quotas = prometheus::BuildCounter()
                                .Name("t2r_quota_refusals_total")
                                .Help("Calls that were refused for a tenant's quota.")
                                .Register(registry);
  Counter& lost_lines =
      MakeCounter("t2r_access_log_dropped_total", "Calls that have no line in the access log.");
  Family<Counter>& traces = prometheus::BuildCounter()
                                .Name("t2r_traces_total")
                                .Help("Sampled calls, by what became of their spans.")
                                .Register(registry);
  Counter& traces_sent = traces.Add({{"result", "sent"}});
  Counter& traces_dropped = traces.Add({{"result", "dropped"}});

  Mutex edge_mutex;
  Edge edge ABSL_GUARDED_BY(edge_mutex);
  Sessions sessions ABSL_GUARDED_BY(edge_mutex);
  Mutex steps_mutex;
  Steps steps ABSL_GUARDED_BY(steps_mutex);

  double bytes_per_session = 0;  // set before the scheduler starts
  // Mean seconds between two finishes lately, for RetryDelay; 0: none seen.
  std::atomic<double> finish_gap{0};
  absl::Time last_finish = absl::InfinitePast();  // engine thread
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  ForEach<FinishReason>([this](FinishReason reason) {
    impl_->finished[reason] = &impl_->finished_family.Add({{"finished_reason", NameOf(reason)}});
  });
  for (const char* tier : {"disk", "shared"}) {
    impl_->tier_errors[tier] = &impl_->store_errors.Add({{"tier", tier}});
    for (const bool stored : {false, true}) {
      impl_->tier_moves[{tier, stored}] = &impl_->moves.Add(
          {{"tier", tier}, {"direction", stored ? "store" : "load"}}, kMoveBuckets);
    }
  }
  // All from the start on, so that the first one of each is an increase.
  for (const char* what : {"certificate", "keys", "tenants"}) {
    for (const char* result : {"ok", "refused"}) {
      impl_->reloads.Add({{"what", what}, {"result", result}});
    }
  }
  for (const char* quota : {"max_requests", "requests_per_minute", "tokens_per_minute"}) {
    impl_->quotas.Add({{"quota", quota}});
  }
  prometheus::BuildGauge()
      .Name("t2r_build_info")
      .Help("The server's version; always 1.")
      .Register(impl_->registry)
      .Add({{"version", T2R_VERSION}})
      .Set(1);
}

Metrics::~Metrics() = default;

void Metrics::SetModel(int slots, int64_t state_bytes) {
  impl_->slots.Set(slots);
  impl_->session_bytes.Set(static_cast<double>(state_bytes));
  impl_->bytes_per_session = static_cast<double>(state_bytes);
}

void Metrics::SetMemory(const MemoryPlan& plan) {
  const std::pair<const char*, int64_t> kinds[] = {
      {"weights", plan.weight_bytes},        {"workspace", plan.workspace_bytes},
      {"states", plan.states_bytes()},       {"kv_cache", plan.kv_bytes()},
      {"prefix_cache", plan.prefix_bytes()}, {"free", plan.free_bytes}};
  for (const auto& [kind, bytes] : kinds) {
    impl_->memory.Add({{"kind", kind}}).Set(static_cast<double>(bytes));
  }
}

void Metrics::OnRefused(absl::StatusCode code) {
  impl_->refused.Add({{"code", absl::StatusCodeToString(code)}}).Increment();
}

absl::Duration Metrics::RetryDelay() const {
  const double seconds =
      impl_->finish_gap.load(std::memory_order_relaxed) * (impl_->waiting.Value() + 1);
  return absl::Seconds(std::clamp(seconds, 0.1, 30.0));
}

void Metrics::WatchSessions(Sessions sessions) {
  const MutexLock lock(impl_->edge_mutex);
  impl_->sessions = std::move(sessions);
}

void Metrics::WatchEdge(Edge edge) {
  const MutexLock lock(impl_->edge_mutex);
  impl_->edge = std::move(edge);
}

void Metrics::OnCall(const std::string& tenant, const CallFacts& facts) {
  impl_->tenant_calls.Add({{"tenant", tenant}, {"code", absl::StatusCodeToString(facts.code)}})
      .Increment();
  if (!facts.ran()) return;
  const std::pair<const char*, int64_t> kinds[] = {{"prompt", facts.prompt_tokens},
                                                   {"cached", facts.cached_tokens},
                                                   {"completion", facts.completion_tokens}};
  for (const auto& [kind, tokens] : kinds) {
    impl_->tenant_tokens.Add({{"tenant", tenant}, {"kind", kind}})
        .Increment(static_cast<double>(tokens));
  }
  if (facts.completion_tokens == 0) return;
  impl_->tenant_first_token.Add({{"tenant", tenant}}, kFirstTokenBuckets)
      .Observe(absl::ToDoubleSeconds(facts.first_token_time()));
}

void Metrics::OnQuota(const char* quota) { impl_->quotas.Add({{"quota", quota}}).Increment(); }

void Metrics::OnNotFinite() { impl_->not_finite.Increment(); }

std::string Metrics::Text() const {
  {
    const MutexLock lock(impl_->steps_mutex);
    Steps& steps = impl_->steps;
    steps.gaps.Tell(impl_->inter_token);
    steps.tokens.Tell(impl_->step_tokens);
    steps.times.Tell(impl_->step_time);
    impl_->prompt_tokens.Increment(
        static_cast<double>(std::exchange(steps.prompt_tokens, int64_t{0})));
    impl_->generated_tokens.Increment(
        static_cast<double>(std::exchange(steps.later_tokens, int64_t{0})));
  }
  {
    const MutexLock lock(impl_->edge_mutex);
    const auto set = [](Gauge& gauge, const std::function<int64_t()>& value) {
      gauge.Set(value ? static_cast<double>(value()) : 0);
    };
    set(impl_->connections, impl_->edge.connections);
    set(impl_->refused_connections, impl_->edge.refused_connections);
    set(impl_->buffer_bytes, impl_->edge.buffer_bytes);
    const auto count = [](Counter& counter, const std::function<int64_t()>& value) {
      if (value) counter.Increment(static_cast<double>(value()) - counter.Value());
    };
    count(impl_->lost_lines, impl_->edge.lost_lines);
    count(impl_->traces_sent, impl_->edge.traces_sent);
    count(impl_->traces_dropped, impl_->edge.traces_dropped);
    const auto set_tier = [](Impl::Tier& tier, const std::function<SessionUsage()>& value) {
      const SessionUsage usage = value ? value() : SessionUsage();
      tier.sessions.Set(static_cast<double>(usage.sessions));
      tier.bytes.Set(static_cast<double>(usage.bytes));
    };
    set_tier(impl_->tier_memory, impl_->sessions.in_memory);
    set_tier(impl_->tier_disk, impl_->sessions.on_disk);
    set_tier(impl_->tier_shared, impl_->sessions.shared);
  }
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

void Metrics::OnSessionMove(const char* tier, bool stored, absl::Duration time) {
  impl_->tier_moves.at({tier, stored})->Observe(absl::ToDoubleSeconds(time));
}

void Metrics::OnSessionStoreError(const char* tier) { impl_->tier_errors.at(tier)->Increment(); }

void Metrics::OnSubmitted() { impl_->started.Increment(); }

void Metrics::SetCertificateExpiry(absl::Time expiry) {
  impl_->certificate_expiry.Set(static_cast<double>(absl::ToUnixSeconds(expiry)));
}

void Metrics::SetApiKeys(int64_t count) { impl_->api_keys.Set(static_cast<double>(count)); }

void Metrics::OnReload(const std::string& what, bool good) {
  impl_->reloads.Add({{"what", what}, {"result", good ? "ok" : "refused"}}).Increment();
}

void Metrics::SetHealth(bool ready, bool alive) {
  impl_->ready.Set(ready ? 1 : 0);
  impl_->alive.Set(alive ? 1 : 0);
}

void Metrics::OnQueue(int64_t requests, int64_t tokens) {
  impl_->waiting.Set(static_cast<double>(requests));
  impl_->queue_tokens.Set(static_cast<double>(tokens));
}

void Metrics::OnSessions(int running, int slots_used) {
  impl_->running.Set(running);
  impl_->slots_used.Set(slots_used);
  impl_->state_bytes.Set(slots_used * impl_->bytes_per_session);
}

void Metrics::OnStep(const StepReport& step) {
  const MutexLock lock(impl_->steps_mutex);
  Steps& steps = impl_->steps;
  steps.prompt_tokens += step.prompt_rows;
  steps.tokens.Add(static_cast<double>(step.decode_rows + step.prompt_rows));
  steps.times.Add(Seconds(step.time));
  for (const StepReport::Gap& gap : step.gaps) {
    steps.later_tokens += gap.tokens;
    steps.gaps.Add(Seconds(gap.time), static_cast<double>(gap.tokens));
  }
}

void Metrics::OnPrefixes(const PrefixStats& stats) {
  const auto set = [](Counter& counter, int64_t value) {
    counter.Increment(static_cast<double>(value) - counter.Value());
  };
  set(impl_->prefix_queries, stats.queried);
  set(impl_->prefix_hits, stats.hit);
  set(impl_->prefix_evictions, stats.evictions);
  impl_->prefix_states.Set(static_cast<double>(stats.states));
  impl_->prefix_bytes.Set(static_cast<double>(stats.bytes));
}

void Metrics::OnFirstToken(absl::Duration since_submit) {
  impl_->generated_tokens.Increment();
  impl_->first_token.Observe(absl::ToDoubleSeconds(since_submit));
}

void Metrics::OnFinished(const FinishEvent& event, absl::Duration since_submit) {
  impl_->finished.at(event.reason)->Increment();
  impl_->end_to_end.Observe(absl::ToDoubleSeconds(since_submit));
  impl_->queue_time.Observe(absl::ToDoubleSeconds(event.queue_time));
  impl_->prefill_time.Observe(absl::ToDoubleSeconds(event.prefill_time));
  impl_->decode_time.Observe(absl::ToDoubleSeconds(event.decode_time));
  impl_->prompt_length.Observe(static_cast<double>(event.prompt_tokens));
  impl_->generated_length.Observe(static_cast<double>(event.generated_tokens));
  // The others were counted as they came.
  if (!event.hypotheses.empty()) {
    impl_->generated_tokens.Increment(static_cast<double>(event.generated_tokens));
  }

  const absl::Time now = absl::Now();
  if (impl_->last_finish != absl::InfinitePast()) {
    const double gap = std::max(0.0, absl::ToDoubleSeconds(now - impl_->last_finish));
    const double old = impl_->finish_gap.load(std::memory_order_relaxed);
    impl_->finish_gap.store(old == 0 ? gap : 0.9 * old + 0.1 * gap, std::memory_order_relaxed);
  }
  impl_->last_finish = now;
}

}  // namespace t2r::server

// Sends calls as spans to a trace collector: OTLP over gRPC.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "opentelemetry/trace_service.pb.h"
#include "server/call_facts.h"

namespace t2r::server {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

// The spans of a call: one of the request, and below it, as far as the call got, "tokenise",
// "queue", "prefill" and "decode".
void AddSpans(const CallFacts& facts, otlp::ScopeSpans* to);

// Up to 2,048 calls wait; they leave in batches, at least once a second. What comes beyond, and
// what the collector does not take within ten seconds, is dropped and counted: no call ever waits.
// Thread-safe.
class TraceExporter {
 public:
  // endpoint: HOST:PORT or http://HOST:PORT without TLS, https://HOST:PORT with it. Connects when
  // there is something to send.
  explicit TraceExporter(const std::string& endpoint);
  ~TraceExporter();  // sends what waits, at most half a second
  TraceExporter(const TraceExporter&) = delete;
  TraceExporter& operator=(const TraceExporter&) = delete;

  void Write(CallFacts facts);
  // Calls whose spans the collector took, and those whose spans were dropped.
  int64_t sent() const;
  int64_t dropped() const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace t2r::server

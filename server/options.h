// The command line of t2r-server. Its flags write into the options of the parts they are meant for,
// whose defaults stand there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/scheduler/options.h"
#include "engine/sessions/session_store.h"
#include "server/listener.h"
#include "server/outbox.h"
#include "server/tls.h"

namespace t2r::server {

// How long a client may take over what is ready for it; see StallMeter.
struct ReadLimits {
  absl::Duration stall_timeout = absl::Seconds(60);  // zero: for ever
  // What a client whose stream was ended as stalled gets to take the rest and the status.
  absl::Duration stall_grace = absl::Seconds(10);
  int64_t min_read_rate = 4096;  // bytes a second; 0: any
};

struct GrpcServerOptions {
  std::string address = "127.0.0.1:50051";  // HOST:PORT; port 0 takes a free one
  int64_t max_request_bytes = 4 << 20;      // larger messages get RESOURCE_EXHAUSTED from gRPC
  // Larger answers are refused, before the work where that can be known; 0: no limit. The default
  // is what gRPC's clients take unless they are told otherwise.
  int64_t max_response_bytes = 4 << 20;
  int worker_threads = 2;          // tokenising
  int store_threads = 4;           // for sessions' stores: mostly waiting
  size_t max_waiting_texts = 256;  // Tokenize and Detokenize calls that may wait for them
  OutboxLimits outbox;             // of each Generate stream
  ReadLimits reading;
  // 0 connections: as many as file descriptors allow.
  ListenerLimits connections = {.connections = 1024, .connections_per_peer = 0};
  int64_t max_streams_per_connection = 1024;      // further ones wait at the client
  int64_t max_requests_per_peer = 0;              // of one address; 0: no limit
  int64_t max_buffer_bytes = int64_t{256} << 20;  // what RPCs hold together; 0: no limit
  // Connections are asked to end (GOAWAY) at this age, give or take a tenth, so that clients look
  // for new servers; zero: never.
  absl::Duration max_connection_age = absl::ZeroDuration();
  // What their streams get from then on; zero: as long as they take.
  absl::Duration max_connection_age_grace = absl::ZeroDuration();
  TlsFiles tls;
  // How silent a connection may be before it is pinged, and how long the answer may take.
  absl::Duration keepalive_time = absl::Seconds(20);
  absl::Duration keepalive_timeout = absl::Seconds(60);
  absl::Duration keepalive_min_interval = absl::Seconds(10);  // between a client's pings
  std::string api_keys;       // file of ApiKeys; "": no key is asked for
  std::string tenants;        // a TenantFile; "": nobody has limits
  std::string access_log;     // see AccessLog; "": none is written
  bool log_prompts = false;   // in it
  std::string otlp_endpoint;  // see TraceExporter; "": no traces are sent
  double trace_sample = 0.1;  // of the traces that begin here
  // Takes lines about files that were read anew, from any thread; may be empty.
  std::function<void(const std::string&)> log;
  bool reflection = true;
  bool tell_memory = false;        // see CallContext
  int64_t checkpoint_tokens = 0;   // see CallContext
  bool resumable_streams = false;  // see CallContext
};

struct ServerOptions {
  std::string model;                     // model directory
  std::string admin = "127.0.0.1:9100";  // HTTP: metrics and probes; port 0 takes a free one
  // Without it a listener that other machines reach must have TLS.
  bool insecure = false;
  bool admin_tls = false;  // the admin port speaks TLS, with the gRPC port's pair
  GrpcServerOptions grpc;
  EngineOptions engine = {.prefix_cache_bytes = int64_t{256} << 20};
  // LoadServedModel fills in what the model says: its end tokens, and the prompt chunk, which is
  // the engine's.
  SchedulerOptions scheduler;
  SessionStoreOptions sessions;      // 0 bytes of memory: none are kept
  int64_t max_text_bytes = 1 << 20;  // of a text to be tokenised; 0: no limit
  int64_t max_tokens = 1 << 17;      // generated tokens a request may ask for
  // After SIGTERM the port still listens, and refuses, for so long: balancers notice meanwhile.
  absl::Duration drain_delay = absl::ZeroDuration();
  absl::Duration drain_timeout = absl::Seconds(30);  // what running streams get after the delay
};

// Reads the command line. Returns the exit code when the process should end now: 0 after --help or
// --version (printed to `out`) and after `key`, another command, 2 after a wrong one (one line to
// `err`).
std::optional<int> ParseOptions(int argc, const char* const* argv, ServerOptions* options,
                                std::ostream& out, std::ostream& err);

}  // namespace t2r::server

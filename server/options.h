// The command line of t2r-server.
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

namespace t2r::server {

struct ServerOptions {
  std::string model;                       // model directory
  std::string listen = "127.0.0.1:50051";  // gRPC; port 0 takes a free one
  std::string admin = "127.0.0.1:9100";    // HTTP: /metrics, /healthz; port 0 takes a free one
  int max_sessions = 0;                    // slots: requests that run at once; 0: what fits
  int threads = 0;                         // engine threads; 0: one a core
  std::string dtype = "auto";              // weights: auto (as the files), float32, bfloat16
  std::string backend = "cpu";             // what runs the model: auto, cpu or cuda
  bool batch_invariant = true;             // of a device's matrix products
  int64_t max_queue_requests = 1024;       // waiting for a slot
  int64_t max_queue_tokens = 1 << 20;      // their prompt tokens
  int max_beams = 16;                      // of a request with beam search
  int64_t max_tokens = 1 << 17;            // generated tokens a request may ask for
  int64_t max_context = 0;                 // positions of a session; 0: the model's own limit
  int64_t kv_cache_mib = 0;                // full layers' cache; 0: 2,048 positions a session
  int64_t max_step_tokens = 0;             // rows of a step; 0: as sessions and prompt chunk ask
  int64_t prompt_chunk = 128;              // prompt tokens a step
  double drain_seconds = 30;               // what running streams get after SIGTERM
  double stall_seconds = 60;               // how long a client may leave a token untaken; 0: ever
  int64_t max_request_bytes = 4 << 20;     // a request message
};

// Reads the command line. Returns the exit code when the process should end now: 0 after --help or
// --version (printed to `out`), 2 after a wrong one (one line to `err`).
std::optional<int> ParseOptions(int argc, const char* const* argv, ServerOptions* options,
                                std::ostream& out, std::ostream& err);

}  // namespace t2r::server

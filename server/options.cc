#include "server/options.h"

#include <algorithm>
#include <limits>

#include "CLI/CLI.hpp"
#include "engine/executor/memory_plan.h"

namespace t2r::server {
namespace {

constexpr char kDescription[] =
    "Serves a model directory over gRPC (t2r.v1.Generation), with health checking and reflection "
    "on\n"
    "the same port, /metrics and /healthz on the admin port.";

constexpr char kExamples[] =
    "Examples:\n"
    "  t2r-server --model models/demo\n"
    "  t2r-server --model DIR --listen 0.0.0.0:50051 --admin 127.0.0.1:9100 --max-sessions 256\n"
    "  t2r-server --model DIR --listen 127.0.0.1:0 --admin 127.0.0.1:0   # free ports, printed\n"
    "  t2r-server --model DIR --dtype bfloat16 --threads 8 --max-queue-requests 64\n"
    "\n"
    "SIGTERM or SIGINT drains: new work is refused, running streams get --drain-seconds to end.\n"
    "A second signal ends the process at once. Exit status: 0 drained, 1 start-up failed, 2 usage.";

// Leaves a number of sessions, 0 for auto.
std::string AutoOrCount(std::string& text) {
  if (text == "auto") {
    text = "0";
    return "";
  }
  int count = 0;
  if (CLI::detail::lexical_cast(text, count) && count >= 1 && count <= kMaxSessions) return "";
  return "'" + text + "' is neither auto nor a number from 1 to " + std::to_string(kMaxSessions);
}

void AddFlags(CLI::App& app, ServerOptions* o) {
  const int64_t big = std::numeric_limits<int64_t>::max() / 2;
  app.add_option("--model", o->model, "Model directory (Hugging Face layout)")->required();
  app.add_option("--listen", o->listen, "gRPC address HOST:PORT; port 0 takes a free one");
  app.add_option("--admin", o->admin, "HTTP address HOST:PORT of /metrics and /healthz");
  app.add_option("--max-sessions", o->max_sessions,
                 "Requests that run at once; auto: what fits a device's memory, up to 64 on a CPU")
      ->type_name("N|auto")
      ->default_str("auto")
      ->transform(CLI::Validator(AutoOrCount, ""));
  app.add_option("--threads", o->threads, "Engine threads; 0: one a core")
      ->check(CLI::Range(0, 4096));
  app.add_option("--dtype", o->dtype, "Weights: auto (as the files), float32 or bfloat16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}));
  app.add_option("--backend", o->backend,
                 "What runs the model: auto (cuda where it can), cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option(
         "--batch-invariant", o->batch_invariant,
         "On a device: a request's results do not depend on the others; false may be faster")
      ->type_name("BOOL");
  app.add_option("--max-queue-requests", o->max_queue_requests, "Requests waiting for a session")
      ->check(CLI::Range(int64_t{1}, big));
  app.add_option("--max-queue-tokens", o->max_queue_tokens, "Prompt tokens waiting")
      ->check(CLI::Range(int64_t{1}, big));
  app.add_option("--max-tokens", o->max_tokens, "Generated tokens a request may ask for")
      ->check(CLI::Range(int64_t{1}, int64_t{std::numeric_limits<uint32_t>::max()}));
  app.add_option("--max-beams", o->max_beams,
                 "Beams a request may ask for; each takes one of the sessions")
      ->check(CLI::Range(1, 100));
  app.add_option("--max-context", o->max_context,
                 "Positions of a session in models with full attention; 0: the model's own")
      ->check(CLI::Range(int64_t{0}, big));
  app.add_option("--kv-cache-mib", o->kv_cache_mib,
                 "Memory for full attention's keys and values; 0: 2,048 positions a session")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--max-step-tokens", o->max_step_tokens,
                 "Tokens of one engine step; 0: one a session (up to 8192) + prompt chunk")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  app.add_option("--prompt-chunk", o->prompt_chunk,
                 "Prompt tokens of one engine step: what a long prompt delays others by")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--drain-seconds", o->drain_seconds, "Time for running streams after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--stall-seconds", o->stall_seconds,
                 "Ends a stream whose client takes no token for so long; 0: never")
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--max-request-bytes", o->max_request_bytes, "Size of a request message")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 30));
  app.option_defaults()->always_capture_default(false);
}

// HOST:PORT with a number that fits a port; HOST may be [::1].
bool IsHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) return false;
  const std::string port = text.substr(colon + 1);
  if (port.size() > 5 ||
      !std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return false;
  }
  const bool brackets = text.front() == '[' && text[colon - 1] == ']';
  const bool more_colons = text.find(':') != colon;
  return std::stoi(port) <= 65535 && (brackets || !more_colons);
}

std::string Check(ServerOptions* o) {
  for (const auto& [flag, value] : {std::pair{"--listen", o->listen}, {"--admin", o->admin}}) {
    if (!IsHostPort(value)) {
      return std::string(flag) + ": '" + value + "' is not HOST:PORT";
    }
  }
  if (o->max_step_tokens == 0) return "";
  if (o->max_step_tokens <= o->max_sessions) {
    return "--max-step-tokens: " + std::to_string(o->max_step_tokens) +
           " leaves no room for prompts beside " + std::to_string(o->max_sessions) +
           " decoding sessions; give at least --max-sessions + 1";
  }
  o->prompt_chunk = std::min(o->prompt_chunk, o->max_step_tokens);
  return "";
}

}  // namespace

std::optional<int> ParseOptions(int argc, const char* const* argv, ServerOptions* options,
                                std::ostream& out, std::ostream& err) {
  CLI::App app(kDescription, "t2r-server");
  app.footer(kExamples);
  app.option_defaults()->always_capture_default();
  app.set_version_flag("--version", "t2r-server " T2R_VERSION);
  AddFlags(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    out << app.help();
    return 0;
  } catch (const CLI::CallForVersion& e) {
    out << e.what() << "\n";
    return 0;
  } catch (const CLI::ParseError& e) {
    err << "t2r-server: " << e.what() << "; see t2r-server --help\n";
    return 2;
  }
  if (const std::string problem = Check(options); !problem.empty()) {
    err << "t2r-server: " << problem << "\n";
    return 2;
  }
  return std::nullopt;
}

}  // namespace t2r::server

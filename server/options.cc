#include "server/options.h"

#include <algorithm>
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/executor/memory_plan.h"
#include "flags/help.h"
#include "server/access_flags.h"
#include "server/key_command.h"
#include "server/listener.h"

namespace t2r::server {
namespace {

constexpr char kDescription[] =
    "Serves a model directory over gRPC (t2r.v1.Generation), with health checking and reflection "
    "on\n"
    "the same port, /metrics, /livez and /readyz on the admin port. docs/security.md: what is "
    "bounded "
    "where.";

constexpr char kExamples[] =
    "Examples:\n"
    "  t2r-server --model models/demo\n"
    "  t2r-server --model DIR --listen 0.0.0.0:50051 --tls-cert tls.crt --tls-key tls.key\n"
    "  t2r-server key new alice                          # an API key, for --api-keys\n"
    "  t2r-server --model DIR --listen 127.0.0.1:0 --admin 127.0.0.1:0   # free ports, printed\n"
    "  t2r-server --model DIR --dtype bfloat16 --threads 8 --max-queue-requests 64\n"
    "\n"
    "SIGTERM or SIGINT drains: new work is refused, running streams get --drain-seconds to end\n"
    "after --drain-delay, during which balancers may notice.\n"
    "A second signal ends the process at once. Exit status: 0 drained, 1 start-up failed, 2 usage.";

// Leaves a number of sessions, 0 for auto.
std::string AutoOrCount(std::string& text) {
  if (text == "auto") {
    text = "0";
    return "";
  }
  int count = 0;
  if (flags::ParseWhole(text, &count) && count >= 1 && count <= kMaxSessions) return "";
  return "'" + text + "' is neither auto nor a number from 1 to " + flags::Grouped(kMaxSessions);
}

void AddEngineFlags(CLI::App& app, EngineOptions* engine) {
  app.add_option("--max-sessions", engine->max_sessions,
                 "Requests that run at once; auto: what fits a device's memory, up to 64 on a CPU")
      ->type_name("N|auto")
      ->default_str("auto")
      ->transform(
          flags::SaidAs(CLI::Validator(AutoOrCount, ""), "1 to " + flags::Grouped(kMaxSessions)));
  app.add_option("--threads", engine->threads, "Engine threads; 0: one a core")
      ->check(flags::Range(0, 4096));
  flags::OneOf(app.add_option("--weights,--dtype", engine->dtype,
                              "Of matrices; auto: as the files; int8, on the CPU int4, and on "
                              "GPUs from sm_89 on fp8: quantised"),
               {"auto", "float32", "bfloat16", "int8", "int4", "fp8"});
  flags::OneOf(app.add_option("--activations", engine->activations,
                              "Rows in products; auto: as the backend keeps them; on the CPU "
                              "bfloat16, for bfloat16 weights: by AVX512-BF16; int8, for int8 and "
                              "int4: 8 bits in place of 16"),
               {"auto", "float32", "bfloat16", "int8"});
  flags::OneOf(app.add_option("--kv-dtype", engine->kv_dtype,
                              "Keys and values of full layers; auto: as a device's activations, "
                              "float32 on the CPU"),
               {"auto", "float32", "bfloat16"});
  flags::OneOf(app.add_option("--window-dtype", engine->window_dtype,
                              "Keys and values in windows; auto: as a device's activations, "
                              "float32 on the CPU; int8, on the CPU: 8 bits and a scale"),
               {"auto", "float32", "bfloat16", "int8"});
  flags::OneOf(app.add_option("--backend", engine->backend,
                              "What runs the model; auto: cuda where a device can start, else cpu"),
               {"auto", "cpu", "cuda"});
  app.add_option("--batch-invariant", engine->batch_invariant,
                 "On a device: a request's results do not depend on the others; false may be "
                 "faster");
  app.add_option("--max-context", engine->max_context,
                 "Positions of a session in models with full attention; 0: the model's own")
      ->check(flags::AtLeast(int64_t{0}));
  app.add_option_function<int64_t>(
         "--kv-cache-mib", [engine](const int64_t& mib) { engine->kv_cache_bytes = mib << 20; },
         "Memory for full attention's keys and values, in MiB; 0: 2,048 positions a session")
      ->default_str(std::to_string(engine->kv_cache_bytes >> 20))
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option_function<int64_t>(
         "--prefix-cache-mib",
         [engine](const int64_t& mib) { engine->prefix_cache_bytes = mib << 20; },
         "Memory for states of prompts' beginnings, which then cost once, in MiB; 0: none are kept")
      ->default_str(std::to_string(engine->prefix_cache_bytes >> 20))
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--max-step-tokens", engine->max_step_tokens,
                 "Tokens of one engine step; 0: one a session (up to 8,192) + prompt chunk")
      ->check(flags::Range(int64_t{0}, kMaxStepTokens));
  app.add_option("--prompt-chunk", engine->prompt_chunk,
                 "Prompt tokens of one engine step: what a long prompt delays others by")
      ->check(flags::Range(int64_t{1}, kMaxStepTokens));
}

void AddSchedulerFlags(CLI::App& app, SchedulerOptions* scheduler) {
  app.add_option("--max-queue-requests", scheduler->max_queue_requests,
                 "Requests waiting for a session")
      ->check(flags::AtLeast(int64_t{1}));
  app.add_option("--max-queue-tokens", scheduler->max_queue_tokens, "Prompt tokens waiting")
      ->check(flags::AtLeast(int64_t{1}));
  app.add_option("--max-beams", scheduler->max_beams,
                 "Beams a request may ask for; each takes one of the sessions")
      ->check(flags::Range(1, 100));
  app.add_flag("--prefix-cache-shared", scheduler->prefix_cache_shared,
               "Let one key's prompts profit from another's: how fast an answer comes then tells "
               "whether somebody sent the same");
  app.add_option("--max-prompt-tokens", scheduler->max_prompt_tokens,
                 "Tokens of a prompt, its source included; 0: no limit")
      ->check(flags::AtLeast(int64_t{0}));
}

void AddEdgeFlags(CLI::App& app, ServerOptions* o) {
  GrpcServerOptions* grpc = &o->grpc;
  app.add_option("--max-request-bytes", grpc->max_request_bytes, "Size of a request message")
      ->check(flags::Range(int64_t{1024}, int64_t{1} << 30));
  app.add_option(
         "--max-response-bytes", grpc->max_response_bytes,
         "Size of an answer's message; 0: no limit. Clients take 4 MiB unless they are told "
         "otherwise")
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--max-text-bytes", o->max_text_bytes, "Size of a text to tokenise; 0: no limit")
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option_function<int64_t>(
         "--max-buffer-mib", [grpc](const int64_t& mib) { grpc->max_buffer_bytes = mib << 20; },
         "Memory for requests, outboxes and answers together, in MiB; 0: no limit")
      ->default_str(std::to_string(grpc->max_buffer_bytes >> 20))
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--max-connections", grpc->connections.connections,
                 "Client connections; 0: as many as file descriptors allow")
      ->check(flags::Range(int64_t{0}, int64_t{1} << 20));
  app.add_option("--max-connections-per-peer", grpc->connections.connections_per_peer,
                 "Connections of one address; 0: no limit")
      ->check(flags::Range(int64_t{0}, int64_t{1} << 20));
  app.add_option("--max-streams-per-connection", grpc->max_streams_per_connection,
                 "Requests at once of one connection; further ones wait at the client")
      ->check(flags::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--max-requests-per-peer", grpc->max_requests_per_peer,
                 "Requests at once of one address; 0: no limit")
      ->check(flags::Range(int64_t{0}, int64_t{1} << 20));
  AddSeconds(app, "--stall-seconds", &o->scheduler.stall_timeout,
             "Ends a stream whose client takes nothing for so long; 0: never");
  app.add_option("--min-read-rate", o->scheduler.min_read_rate,
                 "Ends a stream that lags and whose client takes fewer bytes a second; 0: any")
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--reflection", grpc->reflection, "Serve gRPC reflection, for tools");
  app.add_option("--tell-memory", grpc->tell_memory,
                 "Let GetModel tell any client how much memory the machine has");
}

void AddSessionFlags(CLI::App& app, SessionStoreOptions* sessions, GrpcServerOptions* grpc) {
  app.add_option_function<int64_t>(
         "--session-memory-mib",
         [sessions](const int64_t& mib) { sessions->memory_bytes = mib << 20; },
         "Memory for sessions between their turns, in MiB; 0: none are kept")
      ->default_str(std::to_string(sessions->memory_bytes >> 20))
      ->check(flags::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--session-dir", sessions->directory,
                 "Keep sessions in this directory too: they outlive the process (default: none)")
      ->type_name("DIR");
  app.add_option_function<std::string>(
         "--session-store",
         [sessions](const std::string& url) {
           const absl::StatusOr<RedisAddress> address = ParseRedisAddress(url);
           if (!address.ok()) {
             throw CLI::ValidationError("--session-store", std::string(address.status().message()));
           }
           sessions->shared = *address;
         },
         "Keep sessions in a Redis or Valkey server that servers of the same model share (default: "
         "none)")
      ->type_name("redis://[:PASSWORD@]HOST:PORT[/DB]")
      ->envname("T2R_SESSION_STORE");
  app.add_option("--session-store-ca", sessions->shared_ca,
                 "Authorities of its certificate, PEM, for rediss:// (default: the system's)")
      ->type_name("FILE");
  AddSeconds(app, "--session-lease-seconds", &sessions->lease,
             "How long a server that vanished keeps a session's turn in the shared store from "
             "others",
             1);
  app.add_option_function<std::string>(
         "--session-sync",
         [grpc](const std::string& text) {
           int tokens = 0;
           if (text != "turn" && !(flags::ParseWhole(text, &tokens) && tokens >= 1)) {
             throw CLI::ValidationError("--session-sync", "'" + text +
                                                              "' is neither turn nor a number of "
                                                              "tokens above 0");
           }
           grpc->checkpoint_tokens = tokens;
         },
         "When a session's state goes to its lowest tier: when its turn ends, or also every N "
         "tokens")
      ->type_name("turn|N")
      ->default_str("turn");
  app.add_flag("--resumable-streams", grpc->resumable_streams,
               "Requests without a session get one of their own, for five minutes, so that their "
               "streams outlive the server");
  app.add_option_function<double>(
         "--session-ttl-seconds",
         [sessions](const double& seconds) { sessions->ttl = absl::Seconds(seconds); },
         "How long a session is kept from its last turn on, unless it says otherwise")
      ->default_str(absl::StrCat(absl::ToDoubleSeconds(sessions->ttl)))
      ->type_name("SECONDS")
      ->check(flags::Range(1.0, absl::ToDoubleSeconds(kMaxSessionTtl)));
}

void AddFlags(CLI::App& app, ServerOptions* o) {
  app.add_option("--model", o->model, "Model directory (Hugging Face layout)")
      ->type_name("DIR")
      ->required();
  app.add_option("--listen", o->grpc.address, "gRPC address; port 0 takes a free one")
      ->type_name("HOST:PORT");
  app.add_option("--admin", o->admin,
                 "HTTP address of /metrics and the probes; port 0 takes a free one")
      ->type_name("HOST:PORT");
  AddAccessFlags(app, o);
  AddEngineFlags(app, &o->engine);
  AddSchedulerFlags(app, &o->scheduler);
  app.add_option("--max-tokens", o->max_tokens, "Generated tokens a request may ask for")
      ->check(flags::Range(int64_t{1}, int64_t{std::numeric_limits<uint32_t>::max()}));
  AddSessionFlags(app, &o->sessions, &o->grpc);
  AddEdgeFlags(app, o);
  AddConnectionFlags(app, &o->grpc);
  AddLogFlags(app, &o->grpc);
  AddSeconds(app, "--drain-seconds", &o->drain_timeout, "Time for running streams after SIGTERM");
  AddSeconds(app, "--drain-delay", &o->drain_delay,
             "Before that: refuse work, but go on listening, so that balancers notice");
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
  if (std::any_of(text.begin(), text.end(), [](char c) { return !absl::ascii_isgraph(c); })) {
    return false;
  }
  const bool brackets = text.front() == '[' && text[colon - 1] == ']';
  const bool more_colons = text.find(':') != colon;
  return std::stoi(port) <= 65535 && (brackets || !more_colons);
}

// What is wrong with the options together, or "".
std::string Check(ServerOptions* o) {
  for (const auto& [flag, value] :
       {std::pair{"--listen", o->grpc.address}, {"--admin", o->admin}}) {
    if (!IsHostPort(value)) {
      return std::string(flag) + ": '" + value + "' is not HOST:PORT";
    }
  }
  absl::string_view collector = o->grpc.otlp_endpoint;
  if (!absl::ConsumePrefix(&collector, "https://")) absl::ConsumePrefix(&collector, "http://");
  if (!o->grpc.otlp_endpoint.empty() && !IsHostPort(std::string(collector))) {
    return "--otlp-endpoint: '" + o->grpc.otlp_endpoint + "' is not [http[s]://]HOST:PORT";
  }
  const SessionStoreOptions& sessions = o->sessions;
  for (const auto& [flag, given] : {std::pair{"--session-dir", !sessions.directory.empty()},
                                    {"--session-store", sessions.shared.has_value()},
                                    {"--resumable-streams", o->grpc.resumable_streams}}) {
    if (given && sessions.memory_bytes == 0) {
      return std::string(flag) +
             ": sessions need memory as well; give --session-memory-mib above 0";
    }
  }
  if (!sessions.shared_ca.empty() && !(sessions.shared && sessions.shared->tls)) {
    return "--session-store-ca: only with a --session-store of rediss://";
  }
  if (const std::string problem = CheckAccess(*o); !problem.empty()) return problem;
  const GrpcServerOptions& grpc = o->grpc;
  if (grpc.max_buffer_bytes > 0 && grpc.max_request_bytes > grpc.max_buffer_bytes) {
    return "--max-buffer-mib: " + std::to_string(grpc.max_buffer_bytes >> 20) +
           " MiB do not hold one request of --max-request-bytes, " +
           std::to_string(grpc.max_request_bytes) + " bytes";
  }
  o->grpc.reading.stall_timeout = o->scheduler.stall_timeout;
  o->grpc.reading.min_read_rate = o->scheduler.min_read_rate;
  EngineOptions& engine = o->engine;
  if (engine.max_step_tokens == 0) return "";
  if (engine.max_step_tokens <= engine.max_sessions) {
    return "--max-step-tokens: " + std::to_string(engine.max_step_tokens) +
           " leaves no room for prompts beside " + std::to_string(engine.max_sessions) +
           " decoding sessions; give at least --max-sessions + 1";
  }
  engine.prompt_chunk = std::min(engine.prompt_chunk, engine.max_step_tokens);
  return "";
}

}  // namespace

std::optional<int> ParseOptions(int argc, const char* const* argv, ServerOptions* options,
                                std::ostream& out, std::ostream& err) {
  if (argc > 1 && std::string(argv[1]) == "key") {
    return RunKeyCommand(argc - 1, argv + 1, out, err);
  }
  CLI::App app(kDescription, "t2r-server");
  app.footer(kExamples);
  flags::Describe(&app);
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

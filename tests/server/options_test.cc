#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <vector>

namespace t2r::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Parsed {
  std::optional<int> code;
  ServerOptions options;
  std::string out, err;
};

Parsed Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "t2r-server");
  Parsed parsed;
  std::ostringstream out, err;
  parsed.code =
      ParseOptions(static_cast<int>(arguments.size()), arguments.data(), &parsed.options, out, err);
  parsed.out = out.str();
  parsed.err = err.str();
  return parsed;
}

TEST(OptionsTest, ReadsEveryFlag) {
  const Parsed parsed = Parse({"--model",
                               "DIR",
                               "--listen",
                               "0.0.0.0:1",
                               "--admin",
                               "[::1]:2",
                               "--max-sessions",
                               "3",
                               "--threads",
                               "4",
                               "--activations",
                               "float32",
                               "--kv-dtype",
                               "float32",
                               "--window-dtype",
                               "bfloat16",
                               "--weights",
                               "int8",
                               "--backend",
                               "cpu",
                               "--max-queue-requests",
                               "5",
                               "--max-queue-tokens",
                               "6",
                               "--max-tokens",
                               "7",
                               "--max-beams",
                               "2",
                               "--max-context",
                               "8",
                               "--kv-cache-mib",
                               "9",
                               "--max-step-tokens",
                               "10",
                               "--prompt-chunk",
                               "5",
                               "--drain-seconds",
                               "1.5",
                               "--tls-cert",
                               "c.pem",
                               "--tls-key",
                               "k.pem",
                               "--tls-client-ca",
                               "ca.pem",
                               "--api-keys",
                               "keys",
                               "--drain-delay",
                               "2.5",
                               "--max-connection-age",
                               "300",
                               "--max-connection-age-grace",
                               "60",
                               "--stall-seconds",
                               "0",
                               "--max-request-bytes",
                               "4096",
                               "--min-read-rate",
                               "11",
                               "--max-prompt-tokens",
                               "12",
                               "--max-text-bytes",
                               "13",
                               "--max-buffer-mib",
                               "14",
                               "--max-connections",
                               "15",
                               "--max-connections-per-peer",
                               "16",
                               "--max-streams-per-connection",
                               "17",
                               "--max-requests-per-peer",
                               "18",
                               "--reflection",
                               "false",
                               "--tell-memory",
                               "true",
                               "--max-response-bytes",
                               "19",
                               "--admin-tls",
                               "--tenants",
                               "limits",
                               "--access-log",
                               "log",
                               "--log-prompts",
                               "--otlp-endpoint",
                               "collector:4317",
                               "--trace-sample",
                               "0.25",
                               "--keepalive-time",
                               "21",
                               "--keepalive-timeout",
                               "22",
                               "--keepalive-min-interval",
                               "0.5",
                               "--prefix-cache-mib",
                               "20",
                               "--prefix-cache-shared"});
  ASSERT_FALSE(parsed.code) << parsed.err;
  const ServerOptions& o = parsed.options;
  EXPECT_EQ(o.model, "DIR");
  EXPECT_TRUE(o.admin_tls);
  EXPECT_EQ(o.grpc.tenants, "limits");
  EXPECT_EQ(o.grpc.access_log, "log");
  EXPECT_TRUE(o.grpc.log_prompts);
  EXPECT_EQ(o.grpc.otlp_endpoint, "collector:4317");
  EXPECT_EQ(o.grpc.trace_sample, 0.25);
  EXPECT_EQ(o.grpc.keepalive_time, absl::Seconds(21));
  EXPECT_EQ(o.grpc.keepalive_timeout, absl::Seconds(22));
  EXPECT_EQ(o.grpc.keepalive_min_interval, absl::Milliseconds(500));
  EXPECT_EQ(o.grpc.address, "0.0.0.0:1");
  EXPECT_EQ(o.admin, "[::1]:2");
  EXPECT_EQ(o.engine.max_sessions, 3);
  EXPECT_EQ(o.engine.threads, 4);
  EXPECT_EQ(o.engine.dtype, "int8");
  EXPECT_EQ(o.engine.activations, "float32");
  EXPECT_EQ(o.engine.kv_dtype, "float32");
  EXPECT_EQ(o.engine.window_dtype, "bfloat16");
  EXPECT_EQ(o.scheduler.max_queue_requests, 5);
  EXPECT_EQ(o.scheduler.max_queue_tokens, 6);
  EXPECT_EQ(o.max_tokens, 7);
  EXPECT_EQ(o.scheduler.max_beams, 2);
  EXPECT_EQ(o.engine.max_context, 8);
  EXPECT_EQ(o.engine.kv_cache_bytes, 9 << 20);
  EXPECT_EQ(o.engine.prefix_cache_bytes, 20 << 20);
  EXPECT_TRUE(o.scheduler.prefix_cache_shared);
  EXPECT_EQ(o.engine.max_step_tokens, 10);
  EXPECT_EQ(o.engine.prompt_chunk, 5);
  EXPECT_EQ(o.drain_timeout, absl::Seconds(1.5));
  EXPECT_EQ(o.grpc.tls.certificate, "c.pem");
  EXPECT_EQ(o.grpc.tls.key, "k.pem");
  EXPECT_EQ(o.grpc.tls.client_ca, "ca.pem");
  EXPECT_EQ(o.grpc.api_keys, "keys");
  EXPECT_FALSE(o.insecure);
  EXPECT_EQ(o.drain_delay, absl::Seconds(2.5));
  EXPECT_EQ(o.grpc.max_connection_age, absl::Minutes(5));
  EXPECT_EQ(o.grpc.max_connection_age_grace, absl::Minutes(1));
  EXPECT_EQ(o.scheduler.stall_timeout, absl::ZeroDuration());
  EXPECT_EQ(o.grpc.max_request_bytes, 4096);
  EXPECT_EQ(o.scheduler.min_read_rate, 11);
  EXPECT_EQ(o.grpc.reading.min_read_rate, 11);
  EXPECT_EQ(o.grpc.reading.stall_timeout, absl::ZeroDuration());
  EXPECT_EQ(o.scheduler.max_prompt_tokens, 12);
  EXPECT_EQ(o.max_text_bytes, 13);
  EXPECT_EQ(o.grpc.max_response_bytes, 19);
  EXPECT_EQ(o.grpc.max_buffer_bytes, 14 << 20);
  EXPECT_EQ(o.grpc.connections.connections, 15);
  EXPECT_EQ(o.grpc.connections.connections_per_peer, 16);
  EXPECT_EQ(o.grpc.max_streams_per_connection, 17);
  EXPECT_EQ(o.grpc.max_requests_per_peer, 18);
  EXPECT_FALSE(o.grpc.reflection);
  EXPECT_TRUE(o.grpc.tell_memory);
}

TEST(OptionsTest, SessionsAreANumberOrAuto) {
  EXPECT_EQ(Parse({"--model", "DIR"}).options.engine.max_sessions, 0);
  EXPECT_EQ(Parse({"--model", "DIR", "--max-sessions", "auto"}).options.engine.max_sessions, 0);
  EXPECT_EQ(Parse({"--model", "DIR", "--max-sessions", "1000"}).options.engine.max_sessions, 1000);
}

TEST(OptionsTest, HelpAndVersionEndWellWithExamples) {
  const Parsed help = Parse({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* part : {"--model", "--drain-seconds", "Examples:", "127.0.0.1:50051"}) {
    EXPECT_THAT(help.out, HasSubstr(part));
  }
  EXPECT_EQ(help.err, "");
  const Parsed version = Parse({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, HasSubstr("t2r-server 0."));
}

TEST(OptionsTest, HelpSaysTypesRangesAndDefaultsForPeople) {
  const std::string help = Parse({"--help"}).out;
  for (const char* part :
       {"--model DIR ", "required]", "--max-sessions N|auto ", "[1 to 65,536; default auto]",
        "--threads N ", "[0 to 4,096; default 0]", "--max-queue-tokens N ",
        "[at least 1; default 1,048,576]", "--stall-seconds SECONDS ", "[0 to 86,400; default 60]",
        "[1 to 86,400; default 10]", "[1 to 86,400; default 20]", "--backend auto|cpu|cuda ",
        "[default auto]", "--batch-invariant true|false", "[default true]"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
  for (const char* part : {" INT", " FLOAT", " TEXT", " in [", "4611686018427387903"}) {
    EXPECT_THAT(help, Not(HasSubstr(part)));
  }
}

TEST(OptionsTest, DefaultsAreThoseOfTheParts) {
  const ServerOptions options = Parse({"--model", "DIR"}).options;
  EXPECT_EQ(options.engine.backend, "auto");
  EXPECT_EQ(options.engine.prompt_chunk, EngineOptions().prompt_chunk);
  EXPECT_EQ(options.engine.kv_cache_bytes, 0);
  EXPECT_EQ(options.engine.prefix_cache_bytes, 256 << 20);
  EXPECT_FALSE(options.scheduler.prefix_cache_shared);
  EXPECT_EQ(options.scheduler.stall_timeout, SchedulerOptions().stall_timeout);
  EXPECT_EQ(options.scheduler.max_prompt_chunk, options.engine.prompt_chunk);
  EXPECT_EQ(options.drain_timeout, ServerOptions().drain_timeout);
}

TEST(OptionsTest, WrongOnesGiveOneLineThatNamesThem) {
  const std::vector<std::pair<const char*, std::vector<const char*>>> cases = {
      {"--model", {}},
      {"--frobnicate", {"--model", "DIR", "--frobnicate"}},
      {"--max-sessions", {"--model", "DIR", "--max-sessions", "0"}},
      {"--max-sessions", {"--model", "DIR", "--max-sessions", "many"}},
      {"--weights", {"--model", "DIR", "--weights", "int3"}},
      {"--activations", {"--model", "DIR", "--activations", "int3"}},
      {"--kv-dtype", {"--model", "DIR", "--kv-dtype", "int3"}},
      {"--window-dtype", {"--model", "DIR", "--window-dtype", "int3"}},
      {"--listen", {"--model", "DIR", "--listen", "localhost"}},
      {"--listen", {"--model", "DIR", "--listen", "::1:50051"}},
      {"--admin", {"--model", "DIR", "--admin", "127.0.0.1:70000"}},
      {"--max-sessions", {"--model", "DIR", "--max-sessions", "65537"}},
      {"--max-step-tokens", {"--model", "DIR", "--max-sessions", "64", "--max-step-tokens", "64"}},
      {"--stall-seconds", {"--model", "DIR", "--stall-seconds", "-1"}},
      {"--stall-seconds", {"--model", "DIR", "--stall-seconds", "nan"}},
      {"--session-lease-seconds", {"--model", "DIR", "--session-lease-seconds", "0.5"}},
      {"--keepalive-time", {"--model", "DIR", "--keepalive-time", "0.5"}},
      {"--keepalive-timeout", {"--model", "DIR", "--keepalive-timeout", "0"}},
      {"--otlp-endpoint", {"--model", "DIR", "--otlp-endpoint", "junk junk"}},
      {"--otlp-endpoint", {"--model", "DIR", "--otlp-endpoint", "junk junk:4317"}},
      {"--otlp-endpoint", {"--model", "DIR", "--otlp-endpoint", "https://collector"}},
      {"--listen", {"--model", "DIR", "--listen", "local host:1"}},
      {"--drain-seconds", {"--model", "DIR", "--drain-seconds", "nan"}},
      {"--drain-seconds", {"--model", "DIR", "--drain-seconds", "-nan"}},
      {"--drain-seconds", {"--model", "DIR", "--drain-seconds", "inf"}},
      {"--max-tokens", {"--model", "DIR", "--max-tokens", "nan"}},
      {"--max-buffer-mib",
       {"--model", "DIR", "--max-buffer-mib", "1", "--max-request-bytes", "1048577"}},
  };
  for (const auto& [name, arguments] : cases) {
    const Parsed parsed = Parse(arguments);
    EXPECT_EQ(parsed.code, 2) << name;
    EXPECT_THAT(parsed.err, HasSubstr(name));
    EXPECT_THAT(parsed.err, ::testing::StartsWith("t2r-server: "));
    EXPECT_EQ(std::count(parsed.err.begin(), parsed.err.end(), '\n'), 1) << parsed.err;
    EXPECT_EQ(parsed.out, "");
  }
}

TEST(OptionsTest, WholeNumbersAreDigits) {
  std::istringstream help(Parse({"--help"}).out);
  int options = 0;
  for (std::string line; std::getline(help, line);) {
    std::istringstream words(line);
    std::string option, type;
    words >> option >> type;
    if (option.substr(0, 2) != "--" || (type != "N" && type != "N|auto")) continue;
    ++options;
    for (const char* value : {"-1", "18446744073709551616", "-18446744073709551615", "+100", "010",
                              "0x10", "1e3", ""}) {
      const Parsed parsed = Parse({"--model", "DIR", option.c_str(), value});
      EXPECT_EQ(parsed.code, 2) << option << " " << value;
      EXPECT_THAT(parsed.err, HasSubstr(option));
    }
  }
  EXPECT_GE(options, 19);
}

}  // namespace
}  // namespace t2r::server

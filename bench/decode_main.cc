// t2r-bench-decode: decode speed of the engine alone, without the scheduler and gRPC.
//
// Sessions really hold the context: the first is fed random tokens up to each context length in
// turn, the others are forked from it (own states, keys and values, same tokens), and each row
// decodes with the first of them. A session's context therefore exceeds the row's by the tokens
// that earlier rows decoded with the first one. Then come rows at --position: sessions of a fixed
// state go on from there with the state that the last context left, whose size and use no position
// changes. Before the rows: how long it took from nothing to a first token, and what is resident
// then.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/ops/tensor.h"
#include "flags/help.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  t2r::EngineOptions engine;  // backend, dtype and threads
  std::vector<int> sessions = {1, 8, 32, 64};
  std::vector<int64_t> contexts = {128};
  std::vector<int64_t> positions;  // to move to after the contexts
  int steps = 32;
  double temperature = 1;
  int64_t chunk = 256;
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A line of /proc/self/status; 0 where there is none.
double ResidentMib(const std::string& name) {
  std::ifstream status("/proc/self/status");
  double kib = 0;
  for (std::string word; status >> word;) {
    if (word == name) status >> kib;
  }
  return kib / 1024;
}

struct Session {
  int slot = 0;
  int64_t position = 0;
  int32_t last = 0;  // the next token to feed
};

class Bench {
 public:
  Bench(t2r::Executor& executor, const Options& options, int sessions, int64_t positions)
      : executor_(executor), options_(options), sessions_(sessions) {
    t2r::SamplingParams sampling;
    sampling.temperature = static_cast<float>(options.temperature);
    for (Session& session : sessions_) {
      sampling.sequence += 1;
      session.slot = executor.Open({positions}, sampling);
      if (session.slot < 0) {
        throw t2r::DeviceError("no room for " + std::to_string(sessions) + " sessions of " +
                               std::to_string(positions) + " positions");
      }
    }
  }

  // Feeds the first session random tokens up to `context` and forks the others from it. Returns
  // tokens a second of the feeding, 0 if none was fed.
  double Fill(int64_t context) {
    const Clock::time_point start = Clock::now();
    Session& first = sessions_.front();
    const int64_t before = first.position;
    std::vector<int32_t> tokens;
    while (first.position < context) {
      tokens.resize(std::min(options_.chunk, context - first.position));
      for (int32_t& token : tokens) token = Random();
      t2r::ScheduledChunk chunk;
      chunk.slot = first.slot;
      chunk.tokens = tokens;
      chunk.position = first.position;
      executor_.Step({&chunk, 1}, &results_);
      first.position += static_cast<int64_t>(tokens.size());
    }
    const int64_t fed = first.position - before;
    const double seconds = SecondsSince(start);
    first.last = Random();
    for (size_t i = 1; i < sessions_.size(); ++i) {
      executor_.Fork(first.slot, sessions_[i].slot);
      sessions_[i].position = first.position;
      sessions_[i].last = Random();
    }
    return fed == 0 ? 0 : static_cast<double>(fed) / seconds;
  }

  // Lets every session go on from `position`, with the state that it has.
  void MoveTo(int64_t position) {
    for (Session& session : sessions_) session.position = std::max(session.position, position);
  }

  // Decodes `steps` tokens with each of the first `count` sessions; seconds.
  double Decode(int count, int steps) {
    std::vector<t2r::ScheduledChunk> chunks(count);
    const Clock::time_point start = Clock::now();
    for (int step = 0; step < steps; ++step) {
      for (int i = 0; i < count; ++i) {
        chunks[i].slot = sessions_[i].slot;
        chunks[i].tokens = {&sessions_[i].last, 1};
        chunks[i].position = sessions_[i].position;
        chunks[i].sample = true;
      }
      executor_.Step(chunks, &results_);
      for (int i = 0; i < count; ++i) {
        sessions_[i].position += 1;
        sessions_[i].last = results_[i].sampled.token;
      }
    }
    return SecondsSince(start);
  }

 private:
  int32_t Random() {
    random_ = random_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<int32_t>((random_ >> 33) % executor_.limits().vocab_size);
  }

  t2r::Executor& executor_;
  const Options& options_;
  std::vector<Session> sessions_;
  std::vector<t2r::ChunkResult> results_;
  uint64_t random_ = 1;
};

constexpr int kWarmUpSteps = 3;

void Run(const Options& options) {
  const int most = *std::max_element(options.sessions.begin(), options.sessions.end());
  // What a session can reach: the last context, then every row's steps.
  const int64_t positions =
      options.contexts.back() + static_cast<int64_t>(options.sessions.size()) *
                                    static_cast<int64_t>(options.contexts.size()) *
                                    (options.steps + kWarmUpSteps);
  t2r::EngineOptions engine_options = options.engine;
  engine_options.max_sessions = most;
  engine_options.max_step_tokens = std::max<int64_t>(options.chunk, most);
  const auto config = t2r::LoadModelConfig(options.model);
  if (!config.ok()) throw t2r::DeviceError(std::string(config.status().message()));
  if (config->full_layers() > 0 && !options.positions.empty()) {
    throw t2r::DeviceError(
        "--position is for models without full attention: the keys and values of "
        "a full layer up to there would be missing");
  }
  if (config->full_layers() > 0) {
    engine_options.max_context = positions;
    engine_options.kv_cache_bytes =
        t2r::KvCache::PagesFor(positions) * most * t2r::KvShapeOf(*config).page_bytes();
  }
  const Clock::time_point start = Clock::now();
  const auto engine = t2r::LoadEngine(options.model, engine_options);
  if (!engine.ok()) throw t2r::DeviceError(std::string(engine.status().message()));
  std::printf("%s; weights %s, %.1f MiB; state %.1f KiB a session; temperature %g\n",
              (*engine)->backend_description.c_str(), (*engine)->weight_dtype.c_str(),
              static_cast<double>((*engine)->memory.weight_bytes) / (1 << 20),
              static_cast<double>((*engine)->executor->limits().state_bytes) / 1024,
              options.temperature);
  Bench bench(*(*engine)->executor, options, most, positions);
  bench.Fill(1);
  std::printf("first token read after %.2f s; resident %.0f MiB, %.0f MiB of it the files'\n",
              SecondsSince(start), ResidentMib("VmRSS:"), ResidentMib("RssFile:"));
  std::printf("%9s %9s %9s %9s\n", "context", "sessions", "ms/step", "tokens/s");
  const auto rows_at = [&](int64_t context) {
    for (const int sessions : options.sessions) {
      bench.Decode(sessions, kWarmUpSteps);
      const double seconds = bench.Decode(sessions, options.steps);
      std::printf("%9lld %9d %9.2f %9.0f\n", static_cast<long long>(context), sessions,
                  seconds / options.steps * 1e3, sessions * options.steps / seconds);
      std::fflush(stdout);
    }
  };
  for (const int64_t context : options.contexts) {
    const double fill = bench.Fill(context);
    rows_at(context);
    if (fill > 0)
      std::printf("%9lld    prompts %9s %9.0f\n", static_cast<long long>(context), "", fill);
  }
  for (const int64_t position : options.positions) {
    bench.MoveTo(position);
    rows_at(position);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Decode speed of the engine alone, at several contexts and numbers of sessions.",
               "t2r-bench-decode");
  t2r::flags::Describe(&app);
  app.add_option("--model", options.model, "Model directory")->type_name("DIR")->required();
  app.add_option("--sessions", options.sessions, "Sessions that decode together; a row each")
      ->delimiter(',')
      ->type_name("N,N,...")
      ->check(t2r::flags::Range(1, t2r::kMaxSessions));
  app.add_option("--context", options.contexts, "Tokens a session holds before; ascending")
      ->delimiter(',')
      ->type_name("N,N,...")
      ->check(t2r::flags::Range(int64_t{1}, int64_t{1} << 32));
  app.add_option("--position", options.positions,
                 "Then positions to decode at, without reading up to there; fixed states only")
      ->delimiter(',')
      ->type_name("N,N,...")
      ->check(t2r::flags::Range(int64_t{1}, int64_t{1} << 32));
  app.add_option("--steps", options.steps, "Steps a row")->check(t2r::flags::Range(1, 1 << 20));
  app.add_option("--threads", options.engine.threads, "Engine threads; 0: one a core")
      ->check(t2r::flags::Range(0, 1024));
  t2r::flags::OneOf(
      app.add_option("--weights,--dtype", options.engine.dtype, "Of matrices; auto: as the files"),
      {"auto", "float32", "bfloat16", "int8", "int4"});
  t2r::flags::OneOf(app.add_option("--activations", options.engine.activations,
                                   "Rows in products; as the server's"),
                    {"auto", "float32", "bfloat16", "int8"});
  t2r::flags::OneOf(
      app.add_option("--kv-dtype", options.engine.kv_dtype, "Keys and values of full layers"),
      {"auto", "float32", "bfloat16"});
  t2r::flags::OneOf(
      app.add_option("--window-dtype", options.engine.window_dtype, "Keys and values in windows"),
      {"auto", "float32", "bfloat16", "int8"});
  t2r::flags::OneOf(
      app.add_option("--backend", options.engine.backend, "auto: cuda where a device can start"),
      {"auto", "cpu", "cuda"});
  app.add_option("--temperature", options.temperature, "0: greedy")
      ->check(t2r::flags::Range(0.0, 100.0));
  app.add_option("--chunk", options.chunk, "Prompt tokens a step")
      ->check(t2r::flags::Range(int64_t{1}, t2r::kMaxStepTokens));
  if (const auto code = t2r::flags::Parse(&app, argc, argv)) return *code;
  if (!std::is_sorted(options.contexts.begin(), options.contexts.end())) {
    std::cerr << "t2r-bench-decode: --context must ascend\n";
    return 2;
  }
  try {
    Run(options);
  } catch (const std::exception& error) {
    std::cerr << "t2r-bench-decode: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

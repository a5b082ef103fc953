// t2r-bench-peaks: measures what the machine can do at most, and the speed that leaves for a model.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/floor.h"
#include "bench/peaks.h"
#include "engine/engine.h"
#include "engine/ops/enum_names.h"
#include "flags/help.h"

namespace {

struct Row {
  int sessions = 0;
  int64_t context = 0;
  t2r::StepCost cost;
  t2r::StepFloor floor;

  double tokens_per_second() const { return sessions / floor.seconds; }
};

}  // namespace

int main(int argc, char** argv) {
  int threads = 0;
  bool json = false;
  std::string weights = "auto";
  std::string kv = "float32";
  std::string windows = "float32";
  std::string activations = "auto";
  std::string model;
  std::vector<int> sessions = {1, 8, 32, 64};
  std::vector<int64_t> contexts = {128};
  int64_t source = 32;
  CLI::App app(
      "Measures the machine's peaks; with --model, the fastest decoding they allow, in tokens/s.",
      "t2r-bench-peaks");
  t2r::flags::Describe(&app);
  app.add_option("--threads", threads, "0: one a core")->check(t2r::flags::Range(0, 1024));
  app.add_option("--model", model, "Model directory (only its config.json is read)")
      ->type_name("DIR");
  t2r::flags::OneOf(app.add_option("--weights", weights, "With --model; auto: as its files"),
                    {"auto", "float32", "bfloat16", "int8", "int4"});
  t2r::flags::OneOf(app.add_option("--activations", activations, "With --model: rows of products"),
                    {"auto", "float32", "bfloat16", "int8"});
  t2r::flags::OneOf(app.add_option("--kv-dtype", kv, "With --model: keys and values"),
                    {"float32", "bfloat16"});
  t2r::flags::OneOf(app.add_option("--window-dtype", windows, "With --model: those in windows"),
                    {"float32", "bfloat16", "int8"});
  app.add_option("--sessions", sessions, "With --model: sessions that decode together")
      ->delimiter(',')
      ->type_name("N,N,...")
      ->check(t2r::flags::Range(1, 1 << 20));
  app.add_option("--context", contexts, "With --model: positions before the token")
      ->delimiter(',')
      ->type_name("N,N,...")
      ->check(t2r::flags::Range(int64_t{0}, int64_t{1} << 40));
  app.add_option("--source", source, "With an encoder-decoder: tokens of each session's source")
      ->check(t2r::flags::Range(int64_t{1}, int64_t{1} << 20));
  app.add_flag("--json", json, "One JSON object instead of a table");
  if (const auto code = t2r::flags::Parse(&app, argc, argv)) return *code;

  std::vector<Row> floors;
  const t2r::bench::Peaks peaks = t2r::bench::MeasurePeaks(threads);
  if (!model.empty()) {
    const auto config = t2r::LoadModelConfig(model);
    if (!config.ok()) {
      std::cerr << "t2r-bench-peaks: " << config.status().message() << "\n";
      return 1;
    }
    const bool bf16 = config->file_dtype == t2r::DType::kBFloat16;
    t2r::bench::FloorTypes types;
    types.kept.weights = t2r::Parse<t2r::DType>(weights).value_or(bf16 ? t2r::DType::kBFloat16
                                                                       : t2r::DType::kFloat32);
    types.kept.kv = *t2r::Parse<t2r::DType>(kv);
    types.kept.windows = *t2r::Parse<t2r::DType>(windows);
    if (activations == "bfloat16") types.rows = t2r::RowRounding::kBFloat16;
    if (activations == "int8") types.rows = t2r::RowRounding::kInt8;
    if ((types.rows == t2r::RowRounding::kBFloat16 &&
         types.kept.weights != t2r::DType::kBFloat16) ||
        (types.rows == t2r::RowRounding::kInt8 && !t2r::IsQuantized(types.kept.weights))) {
      std::cerr << "t2r-bench-peaks: --activations " << activations
                << " does not go with weights in " << t2r::NameOf(types.kept.weights) << "\n";
      return 1;
    }
    for (const int64_t context : contexts) {
      for (const int count : sessions) {
        floors.push_back(
            {count, context, t2r::CostOfDecodeStep(*config, types.kept, count, context, source),
             t2r::bench::FloorOfDecodeStep(*config, types, peaks, count, context, source)});
      }
    }
  }

  if (json) {
    nlohmann::json out = {{"threads", peaks.threads},
                          {"isa", peaks.isa},
                          {"read_gb_per_s", peaks.read_gb_per_s},
                          {"f32_gflop_per_s", peaks.f32_gflop_per_s},
                          {"bf16_gflop_per_s", peaks.bf16_gflop_per_s},
                          {"int8_gop_per_s", peaks.int8_gop_per_s},
                          {"floors", nlohmann::json::array()}};
    for (const Row& row : floors) {
      out["floors"].push_back({{"sessions", row.sessions},
                               {"context", row.context},
                               {"flops", row.cost.flops},
                               {"weight_bytes", row.cost.weight_bytes},
                               {"state_bytes", row.cost.state_bytes},
                               {"compute_ms", row.floor.compute_seconds * 1e3},
                               {"memory_ms", row.floor.memory_seconds * 1e3},
                               {"step_ms", row.floor.seconds * 1e3},
                               {"tokens_per_s", row.tokens_per_second()}});
    }
    std::cout << out.dump() << "\n";
    return 0;
  }
  std::printf(
      "%d threads, %s: reads %.1f GB/s, float32 %.0f GFLOP/s, bfloat16 %.0f GFLOP/s, int8 %.0f "
      "GOP/s\n",
      peaks.threads, peaks.isa.c_str(), peaks.read_gb_per_s, peaks.f32_gflop_per_s,
      peaks.bf16_gflop_per_s, peaks.int8_gop_per_s);
  if (floors.empty()) return 0;
  std::printf("%9s %9s %9s %12s %11s %11s %12s\n", "sessions", "context", "GFLOP", "compute ms",
              "memory ms", "step ms ≥", "tokens/s ≤");
  for (const Row& row : floors) {
    std::printf("%9d %9lld %9.2f %12.2f %11.2f %9.2f %10.0f\n", row.sessions,
                static_cast<long long>(row.context), static_cast<double>(row.cost.flops) / 1e9,
                row.floor.compute_seconds * 1e3, row.floor.memory_seconds * 1e3,
                row.floor.seconds * 1e3, row.tokens_per_second());
  }
  return 0;
}

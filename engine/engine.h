// From a model directory to something that runs. Statuses, no exceptions.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/executor/executor.h"
#include "engine/executor/memory_plan.h"
#include "engine/model/config.h"
#include "engine/model/model.h"

namespace t2r {

// Reads and checks config.json (and generation_config.json). What the engine does not do is refused
// by name (UNIMPLEMENTED); what is wrong is INVALID_ARGUMENT naming the key; no file is NOT_FOUND.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);
// The same from text; generation_config may be empty. For tests, fuzzing and the converter.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_config_json);

struct EngineOptions {
  std::string backend = BackendOptions().name;
  int threads = 0;              // 0: one a core
  bool batch_invariant = true;  // as in BackendOptions
  std::string dtype = "auto";   // weights: auto (as the files), float32, bfloat16, int8, int4, fp8
  // What rows are in products: auto (as the backend keeps activations), float32, bfloat16, int8.
  // On the CPU auto is float32, beside quantised weights rounded to 16 bits; bfloat16 rounds them,
  // for AVX512-BF16, and is for bfloat16 weights only; int8 rounds them to 8 bits and is for
  // weights of int8 and int4 only, on the CPU.
  std::string activations = "auto";
  // Keys and values of full layers: auto (as the backend's activations), float32, bfloat16.
  std::string kv_dtype = "auto";
  // Windows' keys and values: auto (as the backend's activations), float32, bfloat16, or on the CPU
  // int8.
  std::string window_dtype = "auto";
  int max_sessions = 0;                        // slots; 0: as many as PlanMemory finds room for
  int64_t max_step_tokens = 0;                 // rows of one step; 0 as in PlanOptions
  int64_t prompt_chunk = kDefaultPromptChunk;  // prompt tokens of one step
  int64_t max_context = 0;     // positions of a session in models with full layers; 0: the model's
  int64_t kv_cache_bytes = 0;  // as in PlanOptions
  int64_t prefix_cache_bytes = 0;
};

// A loaded model with its session slots. Owns backend, weights, states and key/value pages.
struct Engine {
  ModelConfig config;
  std::unique_ptr<Executor> executor;
  std::string backend_description;
  std::string backend_note;  // what the backend auto took and why; empty where one was named
  std::string weight_dtype;
  // What must be equal for the next token to have the same bits (engine/snapshot/snapshot.h).
  std::string exactness_class;
  MemoryPlan memory;
  std::vector<std::string> warnings;  // unused tensors and the like, a line each
};

// INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED or RESOURCE_EXHAUSTED, with one clear line.
absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const std::string& directory,
                                                   const EngineOptions& options);

}  // namespace t2r

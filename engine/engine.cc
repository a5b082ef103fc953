#include "engine/engine.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/executor/device_status.h"
#include "engine/executor/model_executor.h"
#include "engine/io/files.h"
#include "engine/model/tensors.h"
#include "engine/model/weight_loader.h"
#include "engine/snapshot/fingerprint.h"

namespace t2r {
namespace {

// Buffers that old checkpoints hold beside their weights: masks and inverse frequencies.
bool IsKnownBuffer(const std::string& name) {
  for (const char* end : {".attn.bias", ".attn.masked_bias", ".attention.bias",
                          ".attention.masked_bias", "rotary_emb.inv_freq"}) {
    if (absl::EndsWith(name, end)) return true;
  }
  return false;
}

absl::Status CheckOptions(const EngineOptions& options) {
  const struct {
    const char* name;
    int64_t value, low, high;
  } ranges[] = {
      {"max_sessions", options.max_sessions, 0, kMaxSessions},
      {"max_step_tokens", options.max_step_tokens, 0, kMaxStepTokens},
      {"prompt_chunk", options.prompt_chunk, 1, kMaxStepTokens},
  };
  for (const auto& [name, value, low, high] : ranges) {
    if (value >= low && value <= high) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", value, "; it must be ", low, " to ", high));
  }
  if (options.max_context < 0 || options.kv_cache_bytes < 0 || options.prefix_cache_bytes < 0) {
    return absl::InvalidArgumentError(
        "max_context, kv_cache_bytes and prefix_cache_bytes must not be negative");
  }
  const auto either = [](const std::string& value) {
    return value == "auto" || value == "float32" || value == "bfloat16";
  };
  if (!either(options.dtype) && options.dtype != "int8" && options.dtype != "int4" &&
      options.dtype != "fp8") {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype is \"", options.dtype, "\"; it must be auto, float32, bfloat16, int8, int4 or fp8"));
  }
  if (!either(options.activations) && options.activations != "int8") {
    return absl::InvalidArgumentError(
        absl::StrCat("activations is \"", options.activations,
                     "\"; it must be auto, float32, bfloat16 or int8"));
  }
  if (!either(options.kv_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("kv_dtype is \"", options.kv_dtype,
                                                   "\"; it must be auto, float32 or bfloat16"));
  }
  if (!either(options.window_dtype) && options.window_dtype != "int8") {
    return absl::InvalidArgumentError(
        absl::StrCat("window_dtype is \"", options.window_dtype,
                     "\"; it must be auto, float32, bfloat16 or int8"));
  }
  return absl::OkStatus();
}

// activations: one that CheckOptions lets through.
RowRounding RowRoundingOf(const std::string& activations) {
  if (activations == "bfloat16") return RowRounding::kBFloat16;
  return activations == "int8" ? RowRounding::kInt8 : RowRounding::kNone;
}

// name: one that CheckOptions lets through.
DType ChooseDType(const std::string& name, DType otherwise) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "int8") return DType::kInt8;
  return otherwise;
}

// auto: what the files are quantised as, or bfloat16 when every matrix of theirs is; float32
// otherwise, float16 files included (bfloat16 would lose three of their bits). Feature maps ([G, k,
// d]) stay float32 in any case.
DType ChooseDType(const std::string& name, const SafetensorsDirectory& files) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "int8") return DType::kInt8;
  if (name == "int4") return DType::kInt4;
  if (name == "fp8") return DType::kFloat8;
  bool any = false;
  bool quantised = false;
  for (const auto& [tensor_name, tensor] : files.tensors()) {
    if (tensor.dtype != DType::kInt8 || !absl::EndsWith(tensor_name, ".codes")) continue;
    // Which of the two, the rank of the scales says; with int4 some matrices are in 8 bits.
    const HostTensor* scales =
        files.Find(ScalesOf(tensor_name.substr(0, tensor_name.size() - CodesOf("").size())));
    if (scales != nullptr && scales->shape.size() == 3) return DType::kInt4;
    quantised = true;
  }
  if (quantised) return DType::kInt8;
  for (const auto& [tensor_name, tensor] : files.tensors()) {
    if (tensor.shape.size() != 2 || absl::StrContains(tensor_name, ".feature_map.")) continue;
    if (tensor.dtype != DType::kBFloat16) return DType::kFloat32;
    any = true;
  }
  return any ? DType::kBFloat16 : DType::kFloat32;
}

// Positions of a session; 0: no limit.
int64_t PositionLimit(const ModelConfig& config, int64_t max_context) {
  int64_t limit = config.position_limit().value_or(0);
  if (config.full_layers() > 0) {
    const int64_t context = max_context > 0 ? max_context : config.max_position_embeddings;
    limit = limit == 0 ? context : std::min(limit, context);
  }
  return limit;
}

std::vector<std::string> WarningsOf(const SafetensorsDirectory& files, const ModelConfig& config) {
  std::set<std::string, std::less<>> used;
  for (const TensorSpec& tensor : TensorsOf(config)) {
    std::vector<std::string> names = {tensor.name};
    names.insert(names.end(), tensor.aliases.begin(), tensor.aliases.end());
    for (const std::string& name : names) used.insert({name, CodesOf(name), ScalesOf(name)});
  }
  std::vector<std::string> warnings;
  for (const auto& [name, tensor] : files.tensors()) {
    if (used.count(name) == 0 && !IsKnownBuffer(name)) {
      warnings.push_back(absl::StrCat("tensor ", name, " is not used"));
    }
  }
  for (const auto& [name, type] : files.unsupported()) {
    if (!IsKnownBuffer(name)) {
      warnings.push_back(absl::StrCat("tensor ", name, " is not used: it has the type ", type));
    }
  }
  return warnings;
}

// Of the text of config.json and of every tensor.
std::string FingerprintOf(const std::string& config, const SafetensorsDirectory& files) {
  Fingerprint print;
  print.Add(config);
  for (const auto& [name, tensor] : files.tensors()) {
    print.Add(name);
    print.Add(NameOf(tensor.dtype));
    print.Add(absl::StrJoin(tensor.shape, ","));
    print.Add({static_cast<const char*>(tensor.data),
               static_cast<size_t>(tensor.elements()) * SizeOf(tensor.dtype)});
  }
  return print.Hex();
}

// Throws ModelError where the activations asked for do not go with the weights and the backend,
// which keeps them as `kept`.
void CheckActivations(const EngineOptions& options, DType weights, DType kept) {
  if (options.activations == "bfloat16" && weights != DType::kBFloat16) {
    throw ModelError(
        absl::StrCat("activations is bfloat16, which goes with weights of bfloat16; "
                     "these are ",
                     NameOf(weights)));
  }
  if (options.activations == "int8" && !IsQuantized(weights)) {
    throw ModelError(
        absl::StrCat("activations is int8, which goes with weights of int8 or int4; these are ",
                     NameOf(weights)));
  }
  if (options.activations == "float32" && kept != DType::kFloat32) {
    throw ModelError(absl::StrCat("activations is float32; this backend keeps them as ",
                                  NameOf(kept), " beside weights of ", NameOf(weights)));
  }
}

// Throws what building a model throws.
std::unique_ptr<Engine> Build(ModelConfig config, const std::string& fingerprint,
                              const SafetensorsDirectory& files, std::unique_ptr<Backend> backend,
                              const EngineOptions& options) {
  PlanOptions plan;
  plan.sessions = options.max_sessions;
  plan.step_tokens = options.max_step_tokens;
  plan.prompt_chunk = options.prompt_chunk;
  plan.position_limit = PositionLimit(config, options.max_context);
  plan.kv_cache_bytes = options.kv_cache_bytes;
  plan.prefix_cache_bytes = options.prefix_cache_bytes;
  const DType weight_dtype = ChooseDType(options.dtype, files);
  const DType activations = backend->activation_dtype(weight_dtype);
  CheckActivations(options, weight_dtype, activations);
  plan.kv_dtype = ChooseDType(options.kv_dtype, activations);
  plan.window_dtype = ChooseDType(options.window_dtype, activations);
  if (!backend->keeps_kv_as(plan.kv_dtype, activations)) {
    throw ModelError(absl::StrCat(
        "kv_dtype is ", NameOf(plan.kv_dtype),
        "; this backend keeps keys and values as its activations: ", NameOf(activations)));
  }
  if (!backend->keeps_windows_as(plan.window_dtype)) {
    throw ModelError(absl::StrCat("window_dtype is ", NameOf(plan.window_dtype),
                                  "; this backend keeps windows as float32 or bfloat16"));
  }

  std::unique_ptr<Model> model = MakeModel(config, files, *backend, {weight_dtype});

  auto engine = std::make_unique<Engine>();
  engine->memory = PlanMemory(*model, backend->Memory(), plan);
  engine->backend_description = backend->Describe();
  engine->weight_dtype = NameOf(weight_dtype);
  engine->exactness_class = absl::StrCat(
      "model ", fingerprint, ", ", backend->Numerics(), ", weights ", NameOf(weight_dtype),
      ", activations ", NameOf(activations), ", keys and values ", NameOf(plan.kv_dtype),
      ", windows ", NameOf(plan.window_dtype));
  engine->warnings = WarningsOf(files, config);
  ExecutorOptions executor;
  executor.slots = engine->memory.slots;
  executor.max_step_tokens = engine->memory.max_step_tokens;
  executor.max_step_logit_rows = engine->memory.max_step_logit_rows;
  executor.position_limit = plan.position_limit;
  executor.kv_pages = engine->memory.pages;
  executor.source_kv_pages = engine->memory.source_pages;
  executor.prefix_states = engine->memory.prefix_states;
  executor.prefix_pages = engine->memory.prefix_pages;
  executor.weight_dtype = weight_dtype;
  executor.kv_dtype = plan.kv_dtype;
  executor.window_dtype = plan.window_dtype;
  engine->executor =
      std::make_unique<ModelExecutor>(std::move(backend), std::move(model), executor);
  engine->warnings.insert(engine->warnings.end(), config.warnings.begin(), config.warnings.end());
  engine->config = std::move(config);
  return engine;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const std::string& directory,
                                                   const EngineOptions& options) {
  const absl::Status checked = CheckOptions(options);
  if (!checked.ok()) return checked;
  auto config = LoadModelConfig(directory);
  if (!config.ok()) return config.status();
  auto files = SafetensorsDirectory::Open(directory);
  if (!files.ok()) return files.status();
  // LoadModelConfig has read it: it is there.
  const auto config_json = ReadTextFile(absl::StrCat(directory, "/config.json"));
  if (!config_json.ok()) return config_json.status();
  std::unique_ptr<Backend> backend;
  std::string note;
  try {
    backend = MakeBackend({options.backend, options.threads, &note, options.batch_invariant,
                           RowRoundingOf(options.activations)});
  } catch (const std::exception& error) {
    return StatusOf(error);
  }
  try {
    const std::string fingerprint = FingerprintOf(*config_json, **files);
    auto engine = Build(*std::move(config), fingerprint, **files, std::move(backend), options);
    engine->backend_note = std::move(note);
    return engine;
  } catch (const ModelError& error) {
    return absl::InvalidArgumentError(absl::StrCat(directory, ": ", error.what()));
  } catch (const std::exception& error) {
    const absl::Status status = StatusOf(error);
    return absl::Status(status.code(), absl::StrCat(directory, ": ", status.message()));
  }
}

}  // namespace t2r

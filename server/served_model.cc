#include "server/served_model.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/architectures.h"

namespace t2r::server {
namespace {

// The last part of the path, also for "DIR/" and ".".
std::string DirectoryName(const std::string& path) {
  std::error_code error;
  std::filesystem::path full = std::filesystem::weakly_canonical(path, error);
  if (error) full = path;
  if (!full.has_filename()) full = full.parent_path();
  return full.filename().string();
}

// transformers takes a top_p of 0 as the most likely token alone.
std::optional<float> TopPOf(const ModelConfig::GenerationDefaults& given) {
  if (given.top_p == 0.0F) return std::numeric_limits<float>::min();
  return given.top_p;
}

std::optional<int64_t> DefaultMaxTokens(const ModelConfig& config, const ServerOptions& options) {
  if (!config.defaults.max_new_tokens) return std::nullopt;
  return std::min(*config.defaults.max_new_tokens, options.max_tokens);
}

void DescribeDefaults(const ModelConfig& config, const ServerOptions& options,
                      v1::GenerationDefaults* info) {
  const ModelConfig::GenerationDefaults& given = config.defaults;
  if (config.default_temperature) info->set_temperature(*config.default_temperature);
  if (given.top_k) info->set_top_k(static_cast<uint32_t>(*given.top_k));
  if (given.top_p) info->set_top_p(*TopPOf(given));
  if (given.min_p) info->set_min_p(*given.min_p);
  if (given.repetition_penalty) info->set_repetition_penalty(*given.repetition_penalty);
  if (const std::optional<int64_t> tokens = DefaultMaxTokens(config, options)) {
    info->set_max_tokens(static_cast<uint32_t>(*tokens));
  }
}

}  // namespace

std::vector<std::string> TokenizerWarnings(const Tokenizer& tokenizer, const ModelLimits& limits) {
  std::vector<std::string> warnings;
  const auto compare = [&](const char* whose, int64_t tokens, int64_t rows, bool named) {
    if (tokens <= rows) return;
    const std::string first =
        named ? absl::StrCat(" \"", tokenizer.TokenText(static_cast<int32_t>(rows)), "\"") : "";
    warnings.push_back(absl::StrCat("the ", whose, " has ", tokens, " tokens, the model ", rows,
                                    " of them: texts with others (the first is", first, " of id ",
                                    rows, ") are refused"));
  };
  compare("tokenizer", tokenizer.vocab_size(), limits.vocab_size, true);
  if (limits.encoder_decoder()) {
    compare("source tokenizer", tokenizer.source_vocab_size(), limits.source_vocab_size, false);
  }
  return warnings;
}

ModelLimits LimitsOf(const ModelConfig& config, const ExecutorLimits& executor,
                     const ServerOptions& options) {
  ModelLimits limits;
  limits.vocab_size = executor.vocab_size;
  limits.max_positions = executor.max_positions();
  limits.max_tokens = options.max_tokens;
  limits.max_prompt_tokens = options.scheduler.max_prompt_tokens;
  limits.max_text_bytes = options.max_text_bytes;
  limits.max_response_bytes = options.grpc.max_response_bytes;
  const ModelConfig::GenerationDefaults& given = config.defaults;
  SamplingParams& defaults = limits.defaults;
  defaults.temperature = config.default_temperature.value_or(defaults.temperature);
  defaults.top_k = given.top_k.value_or(defaults.top_k);
  defaults.top_p = TopPOf(given).value_or(defaults.top_p);
  defaults.min_p = given.min_p.value_or(defaults.min_p);
  defaults.repetition_penalty = given.repetition_penalty.value_or(defaults.repetition_penalty);
  limits.default_max_tokens = DefaultMaxTokens(config, options).value_or(limits.max_tokens);
  limits.source_vocab_size = executor.source_vocab_size;
  if (config.encoder_decoder) {
    limits.decoder_start_token_id = config.encoder_decoder->decoder_start_token_id;
  }
  return limits;
}

v1::GetModelResponse DescribeModel(const ModelConfig& config, const ExecutorLimits& executor,
                                   const ServerOptions& options) {
  v1::GetModelResponse info;
  info.set_name(DirectoryName(options.model));
  info.set_architecture(config.architecture->name);
  for (const LayerType type : config.layer_types) info.add_layer_types(NameOf(type));
  if (config.linear_attention) {
    info.set_feature_map(NameOf(config.linear_attention->feature_map));
    info.set_feature_size(config.linear_attention->feature_size);
  }
  info.set_state_bytes_per_session(executor.state_bytes);
  info.set_kv_bytes_per_position(executor.kv_bytes_per_position);
  info.set_vocab_size(executor.vocab_size);
  for (const int32_t id : config.eos_token_ids) info.add_eos_token_ids(id);
  if (config.bos_token_id) info.set_bos_token_id(*config.bos_token_id);
  if (config.encoder_decoder) {
    const EncoderDecoderConfig& both = *config.encoder_decoder;
    info.set_encoder_decoder(true);
    for (const LayerType type : both.cross_layer_types) {
      info.add_cross_layer_types(NameOf(type));
    }
    info.set_source_vocab_size(executor.source_vocab_size);
    info.set_encoder_layers(both.encoder_layers);
    info.set_source_kv_bytes_per_position(executor.source_kv_bytes_per_position);
    info.set_decoder_start_token_id(both.decoder_start_token_id);
  }
  DescribeDefaults(config, options, info.mutable_defaults());

  v1::Limits& limits = *info.mutable_limits();
  limits.set_max_sessions(executor.slots);
  limits.set_max_positions(executor.max_positions());
  limits.set_max_tokens(options.max_tokens);
  limits.set_max_queue_requests(options.scheduler.max_queue_requests);
  limits.set_max_queue_tokens(options.scheduler.max_queue_tokens);
  limits.set_max_stop_strings(options.scheduler.max_stop_strings);
  limits.set_max_logprobs(options.scheduler.max_top_logprobs);
  limits.set_max_request_bytes(options.grpc.max_request_bytes);
  limits.set_max_prompt_tokens(static_cast<uint64_t>(options.scheduler.max_prompt_tokens));
  limits.set_max_text_bytes(static_cast<uint64_t>(options.max_text_bytes));
  limits.set_max_response_bytes(static_cast<uint64_t>(options.grpc.max_response_bytes));
  limits.set_max_source_tokens(executor.max_source);
  limits.set_max_beams(std::min(options.scheduler.max_beams, executor.slots));
  return info;
}

void DescribeMemory(const MemoryPlan& plan, v1::GetModelResponse* info) {
  info->set_parameters_bytes(plan.weight_bytes);
  v1::Memory& memory = *info->mutable_memory();
  memory.set_total_bytes(plan.total_bytes);
  memory.set_weights_bytes(plan.weight_bytes);
  memory.set_workspace_bytes(plan.workspace_bytes);
  memory.set_states_bytes(plan.states_bytes());
  memory.set_kv_bytes(plan.kv_bytes());
  memory.set_free_bytes(plan.free_bytes);
  memory.set_kv_pages(plan.pages + plan.source_pages);
  memory.set_prefix_cache_bytes(plan.prefix_bytes());
}

absl::StatusOr<ServedModel*> ModelHost::Get() const {
  switch (state_.load(std::memory_order_acquire)) {
    case State::kLoading:
      return absl::UnavailableError("the model is not loaded yet");
    case State::kDraining:
      return absl::UnavailableError("the server is shutting down");
    case State::kFailed:
      return absl::UnavailableError("the device failed; the server needs a restart");
    case State::kServing:
      break;
  }
  return model_;
}

void ModelHost::Serve(ServedModel* model) {
  model_ = model;
  State loading = State::kLoading;
  state_.compare_exchange_strong(loading, State::kServing, std::memory_order_acq_rel);
}

void ModelHost::Fail() {
  State serving = State::kServing;
  state_.compare_exchange_strong(serving, State::kFailed, std::memory_order_acq_rel);
}

}  // namespace t2r::server

// LoadServedModel, apart from the rest so that tests of the services link no model.
#include <algorithm>
#include <utility>

#include "server/served_model.h"

namespace t2r::server {

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const ServerOptions& options, Metrics& metrics,
    std::function<void(const absl::Status&)> on_failure) {
  EngineOptions engine_options;
  engine_options.backend = options.backend;
  engine_options.threads = options.threads;
  engine_options.batch_invariant = options.batch_invariant;
  engine_options.dtype = options.dtype;
  engine_options.max_sessions = options.max_sessions;
  engine_options.max_step_tokens = options.max_step_tokens;
  engine_options.prompt_chunk = options.prompt_chunk;
  engine_options.max_context = options.max_context;
  engine_options.kv_cache_bytes = options.kv_cache_mib << 20;
  absl::StatusOr<std::unique_ptr<Engine>> engine = LoadEngine(options.model, engine_options);
  if (!engine.ok()) return engine.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(options.model);
  if (!tokenizer.ok()) return tokenizer.status();

  auto model = std::make_unique<ServedModel>();
  model->engine = *std::move(engine);
  model->tokenizer = *std::move(tokenizer);
  const ModelConfig& config = model->engine->config;
  const ExecutorLimits& executor = model->engine->executor->limits();
  model->limits = LimitsOf(config, executor, options);
  model->info = DescribeModel(config, executor, options);
  model->info.set_has_tokenizer(model->tokenizer != nullptr);
  DescribeMemory(model->engine->memory, &model->info);
  model->info.set_dtype(model->engine->weight_dtype);
  model->info.set_backend(model->engine->backend_description);

  metrics.SetModel(executor.slots, executor.state_bytes);
  metrics.SetMemory(model->engine->memory);

  SchedulerOptions scheduler;
  scheduler.on_failure = std::move(on_failure);
  scheduler.max_queue_requests = options.max_queue_requests;
  scheduler.max_queue_tokens = options.max_queue_tokens;
  scheduler.max_prompt_chunk = std::min(options.prompt_chunk, executor.max_step_tokens);
  scheduler.stall_timeout = absl::Seconds(options.stall_seconds);
  scheduler.eos_token_ids = config.eos_token_ids;
  scheduler.max_top_logprobs = kMaxLogprobs;
  scheduler.max_stop_strings = kMaxStopStrings;
  scheduler.max_beams = options.max_beams;
  model->scheduler = std::make_unique<Scheduler>(*model->engine->executor, model->tokenizer.get(),
                                                 &metrics, std::move(scheduler));
  return model;
}

}  // namespace t2r::server

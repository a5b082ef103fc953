// LoadServedModel, apart from the rest so that tests of the services link no model.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/served_model.h"

namespace t2r::server {
namespace {

absl::Status OfModel(const ServerOptions& options, const absl::Status& error) {
  return absl::Status(error.code(), absl::StrCat("--model ", options.model, ": ", error.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const ServerOptions& options, const EngineLoader& load_engine, Metrics& metrics,
    std::function<void(const absl::Status&)> on_failure,
    std::function<void(const absl::Status&)> on_fault) {
  absl::StatusOr<std::unique_ptr<Engine>> engine = load_engine(options.model, options.engine);
  if (!engine.ok()) return OfModel(options, engine.status());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(options.model);
  if (!tokenizer.ok()) return OfModel(options, tokenizer.status());

  auto model = std::make_unique<ServedModel>();
  model->engine = *std::move(engine);
  model->tokenizer = *std::move(tokenizer);
  const ModelConfig& config = model->engine->config;
  const ExecutorLimits& executor = model->engine->executor->limits();
  model->limits = LimitsOf(config, executor, options);
  if (model->tokenizer != nullptr) {
    for (std::string& warning : TokenizerWarnings(*model->tokenizer, model->limits)) {
      model->engine->warnings.push_back(std::move(warning));
    }
  }
  model->info = DescribeModel(config, executor, options);
  model->info.set_has_tokenizer(model->tokenizer != nullptr);
  DescribeMemory(model->engine->memory, &model->info);
  model->info.set_dtype(model->engine->weight_dtype);
  model->info.set_backend(model->engine->backend_description);

  model->info.set_exactness_class(model->engine->exactness_class);
  if (options.sessions.memory_bytes > 0) {
    model->info.set_has_sessions(true);
    SessionStoreOptions kept = options.sessions;
    kept.observer = &metrics;
    absl::StatusOr<std::unique_ptr<SessionStore>> sessions =
        SessionStore::Open(executor, model->engine->exactness_class, std::move(kept));
    if (!sessions.ok()) return sessions.status();
    model->sessions = *std::move(sessions);
  }

  metrics.SetModel(executor.slots, executor.state_bytes);
  metrics.SetMemory(model->engine->memory);

  SchedulerOptions scheduler = options.scheduler;
  scheduler.on_failure = std::move(on_failure);
  scheduler.on_fault = std::move(on_fault);
  scheduler.max_prompt_chunk = std::min(options.engine.prompt_chunk, executor.max_step_tokens);
  scheduler.eos_token_ids = config.eos_token_ids;
  model->scheduler = std::make_unique<Scheduler>(*model->engine->executor, model->tokenizer.get(),
                                                 &metrics, std::move(scheduler));
  return model;
}

}  // namespace t2r::server

// The model that the services serve, and where they find it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/sampling/params.h"
#include "engine/scheduler/scheduler.h"
#include "engine/sessions/session_store.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/metrics.h"
#include "server/options.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// What the engine can hold, as far as requests are checked against it before they are tokenised.
struct ModelLimits {
  int64_t vocab_size = 0;
  int64_t max_positions = 0;       // prompt + max_tokens − 1; 0: no limit
  int64_t max_tokens = 0;          // a request may generate
  int64_t max_prompt_tokens = 0;   // of a request, its source included; 0: no limit
  int64_t max_text_bytes = 0;      // of a text to be tokenised; 0: no limit
  int64_t max_response_bytes = 0;  // of a message of the server; 0: no limit
  // What a request leaves unset, with everything filled in.
  SamplingParams defaults = {};
  int64_t default_max_tokens = 0;  // at most max_tokens
  // Encoder-decoders; 0 for other models.
  int64_t source_vocab_size = 0;
  int32_t decoder_start_token_id = 0;

  bool encoder_decoder() const { return source_vocab_size > 0; }
};

// Immutable once made, except for the scheduler, which is thread-safe.
struct ServedModel {
  std::unique_ptr<Engine> engine;        // null where a test brings its own executor
  std::unique_ptr<Tokenizer> tokenizer;  // null: token ids only
  ModelLimits limits;
  v1::GetModelResponse info;
  std::unique_ptr<SessionStore> sessions;  // null: this server keeps none
  std::unique_ptr<Scheduler> scheduler;    // last: its thread uses all of the above
};

// What requests are checked against, from the model, what the executor can hold and the command
// line.
ModelLimits LimitsOf(const ModelConfig& config, const ExecutorLimits& executor,
                     const ServerOptions& options);
// The answer to GetModel, from the model, what the executor can hold and the command line.
v1::GetModelResponse DescribeModel(const ModelConfig& config, const ExecutorLimits& executor,
                                   const ServerOptions& options);
// How the engine's memory is shared out, into the answer to GetModel.
void DescribeMemory(const MemoryPlan& plan, v1::GetModelResponse* info);

// What a tokenizer knows and the model has no rows for, a line each vocabulary.
std::vector<std::string> TokenizerWarnings(const Tokenizer& tokenizer, const ModelLimits& limits);

// LoadEngine, or what stands in for it in a benchmark.
using EngineLoader = std::function<absl::StatusOr<std::unique_ptr<Engine>>(
    const std::string& directory, const EngineOptions& options)>;

// Loads engine and tokenizer from options.model and starts a scheduler that reports to `metrics`
// (which must outlive the result), calls on_failure from its thread when the device has failed, and
// on_fault when a request ends by another fault.
// Errors are those of load_engine and LoadTokenizer, one line.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const ServerOptions& options, const EngineLoader& load_engine, Metrics& metrics,
    std::function<void(const absl::Status&)> on_failure,
    std::function<void(const absl::Status&)> on_fault);

// Hands the model to the services once it is loaded, and says why there is none. Thread-safe.
class ModelHost {
 public:
  // UNAVAILABLE while the model loads, while the server drains, and after a device failure.
  absl::StatusOr<ServedModel*> Get() const;
  // Whether Get would give the model.
  bool serving() const { return state_.load(std::memory_order_acquire) == State::kServing; }
  // Whether the device has failed, which only a restart mends.
  bool failed() const { return state_.load(std::memory_order_acquire) == State::kFailed; }
  bool draining() const { return state_.load(std::memory_order_acquire) == State::kDraining; }

  // At most once; `model` must live until every RPC has ended.
  void Serve(ServedModel* model);
  void Drain() { state_.store(State::kDraining, std::memory_order_release); }
  // Does nothing while draining.
  void Fail();

 private:
  enum class State : uint8_t { kLoading, kServing, kDraining, kFailed };
  std::atomic<State> state_{State::kLoading};
  ServedModel* model_ = nullptr;
};

}  // namespace t2r::server

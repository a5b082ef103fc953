// Runs sessions through a model on a backend: slots, key/value pages, sampling, scoring.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/model/executor.h"
#include "engine/model/model.h"
#include "engine/sampling/sampler.h"

namespace t2r {

struct ExecutorOptions {
  int slots = 1;
  int64_t max_step_tokens = 512;   // as in ModelOptions
  int64_t max_step_outputs = 512;  // as in ModelOptions; a step that wants more runs in parts
  int64_t position_limit = 0;      // positions of a session; 0: no limit
  int64_t kv_pages = 0;            // ignored by models without full layers
};

// Owns everything below it. Called by one thread.
class ModelExecutor : public Executor {
 public:
  // weights: kept alive as long as the model, which may look up embeddings in them. Throws
  // DeviceError when the states or pages cannot be allocated.
  ModelExecutor(std::unique_ptr<Backend> backend, std::shared_ptr<const WeightSource> weights,
                std::unique_ptr<Model> model, const ExecutorOptions& options);
  ~ModelExecutor() override;

  const ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(int64_t positions) const override;
  int Open(int64_t positions, const SamplingParams& sampling) override;
  void Close(int slot) override;
  void Step(std::span<const Work> works, std::vector<WorkResult>* results) override;

 private:
  struct Session {
    SamplingParams sampling;
    bool counts_seen = false;       // a repetition penalty is on
    bool counts_generated = false;  // a frequency or presence penalty is on
    TokenCounts counts;
  };
  // A row whose logits are wanted.
  struct Output {
    size_t work = 0;
    int64_t token = 0;  // index in Work::tokens
    bool score = false;
    bool sample = false;
  };

  // The outputs of a work's token, if any.
  static bool Wanted(const Work& work, int64_t token);
  void Append(std::span<const Work> works, size_t work, int64_t first, int64_t count);
  void RunBatch(std::span<const Work> works, std::vector<WorkResult>* results);
  // Thread-safe for distinct outputs of distinct works' tokens.
  void Finish(const Work& work, const Output& output, std::span<float> logits, WorkResult* result);

  std::unique_ptr<Backend> backend_;  // first: everything else frees its memory through it
  std::shared_ptr<const WeightSource> weights_;
  std::unique_ptr<Model> model_;
  ExecutorOptions options_;
  ExecutorLimits limits_;
  StatePool states_;
  KvCache kv_;
  std::vector<Session> sessions_;  // [slots]

  // Reused from step to step.
  Batch batch_;
  std::vector<Output> outputs_;
  std::vector<float> logits_;
};

}  // namespace t2r

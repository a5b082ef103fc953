// Runs sessions through a model on a backend: slots, key/value pages, sampling, scoring.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/model/model.h"
#include "engine/sampling/token_history.h"

namespace t2r {

struct ExecutorOptions {
  // The first three must be given: at least 1.
  int slots = 0;
  int64_t max_step_tokens = 0;      // rows of the largest step: sizes the workspace
  int64_t max_step_logit_rows = 0;  // rows whose logits are wanted; what wants more runs in parts
  int64_t position_limit = 0;       // positions of a session; 0: no limit
  int64_t kv_pages = 0;             // ignored by models without full layers
  int64_t source_kv_pages = 0;      // the same for full cross attention
  int prefix_states = 0;            // as in MemoryPlan
  int64_t prefix_pages = 0;
  DType weight_dtype = DType::kFloat32;  // as in ModelOptions
  // As in PlanOptions; none: the backend's activations'.
  std::optional<DType> kv_dtype = std::nullopt;
  DType window_dtype = DType::kFloat32;  // as in PlanOptions
};

// Owns everything below it. Called by one thread.
class ModelExecutor : public Executor {
 public:
  // weights: kept alive as long as the model, which may look up embeddings in them. Allocates the
  // model's workspace, states and pages; throws DeviceError when one of them cannot be had.
  ModelExecutor(std::unique_ptr<Backend> backend, std::unique_ptr<Model> model,
                const ExecutorOptions& options);
  ~ModelExecutor() override;

  const ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(const SessionSize& size, int count) const override;
  int Open(const SessionSize& size, const SamplingParams& sampling) override;
  void Fork(int from, int to) override;
  void Close(int slot) override;
  SlotState Save(int slot) override;
  void Restore(int slot, const SlotState& state) override;
  int KeepPrefix(int slot) override;
  void StartFromPrefix(int slot, int prefix, std::span<const int32_t> tokens) override;
  void DropPrefix(int prefix) override;
  int64_t prefix_bytes() const override;
  void Launch(std::span<const ScheduledChunk> chunks) override;
  void Wait(std::vector<ChunkResult>* results) override;

 private:
  struct Session {
    SamplingParams sampling;
    TokenHistory history;
    std::optional<TokenHistory> whole_history;  // of lasting sessions
    int64_t positions = 0;                      // that went through the model
    int64_t source = 0;                         // tokens of the source, once it is encoded
  };
  // A row whose logits are wanted.
  struct LogitRow {
    size_t chunk = 0;   // index in chunks_
    int64_t token = 0;  // index in ScheduledChunk::tokens
    bool score = false;
    bool sample = false;
  };

  // Runs the encoder over the chunks' sources, as many at a time as a batch holds.
  void Encode(std::span<const ScheduledChunk> chunks);
  // Whether the logits of a chunk's token are wanted.
  static bool Wanted(const ScheduledChunk& chunk, int64_t token);
  void Append(std::span<const ScheduledChunk> chunks, size_t index, int64_t first, int64_t count);
  // A segment of the batch whose pages are those of `kv`.
  void AppendSegment(int slot, std::span<const int32_t> tokens, int64_t position,
                     const KvCache& kv);
  void ClearBatch();
  // Runs chunks_; all but the last batch is waited for.
  void Start();
  // Runs what was appended; FinishBatch waits for it and fills results_.
  void StartBatch();
  void FinishBatch();

  std::unique_ptr<Backend> backend_;  // first: everything else frees its memory through it
  std::unique_ptr<Model> model_;
  ExecutorOptions options_;
  ExecutorLimits limits_;
  StatePool states_;
  KvCache kv_;
  KvCache source_kv_;
  std::vector<Session> sessions_;  // [slots]
  // Prefix i has the place options_.slots + i of states_ and kv_.
  std::vector<int> free_prefixes_;
  std::vector<int64_t> prefix_positions_;  // [prefix_states]

  // Reused from step to step.
  StepLimits step_limits_;
  Batch batch_;
  std::vector<LogitRow> logit_rows_;
  std::vector<SampleRequest> requests_;
  std::vector<SampleResult> samples_;
  std::span<const ScheduledChunk> chunks_;  // between Launch and Wait
  std::vector<ChunkResult> results_;
};

}  // namespace t2r

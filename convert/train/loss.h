// Batches of token ids and the losses over them.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "convert/data/corpus.h"
#include "convert/model/model.h"

namespace t2r::convert {

// Padded rows: input ids and targets [B, T] (int64); counted [B, T] is 1 (float32) where a target
// counts.
struct TokenBatch {
  ModelInput input;
  torch::Tensor targets, counted;
  int64_t predictions = 0;  // counted targets
};

// Padding holds id 0 and target 0. No window and no source is longer than the plan's lengths.
TokenBatch MakeBatch(const Corpus& corpus, const BatchPlan& plan, torch::Device device);

struct Evaluation {
  double nats = 0;          // sum of −log p over predicted tokens
  int64_t predictions = 0;  // predicted tokens: every one but each document's first
  int64_t documents = 0;
  double nats_per_token() const { return nats / static_cast<double>(predictions); }
  double perplexity() const;
};

// "1.40256 nats/token, perplexity 4.0656 over 55777 predicted tokens of 150 documents".
std::string Describe(const Evaluation& evaluation);

// Each document from position 0, whole (of pairs, each target after its source), on `threads`
// threads. Batches documents of similar length, up to `batch_tokens` positions at once. The figures
// do not depend on the number of threads.
Evaluation Evaluate(const TrainingModel& model, const Corpus& corpus, int threads = 1,
                    int64_t batch_tokens = 4096);

}  // namespace t2r::convert

// Batches of token ids and the losses over them.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "convert/data/corpus.h"
#include "convert/eval/evaluation.h"
#include "convert/eval/windows.h"
#include "convert/model/model.h"
#include "convert/progress.h"

namespace t2r::convert {

// Padded rows: input ids and targets [B, T] (int64); counted [B, T] is 1 (float32) where a target
// counts: not in padding, nor in a window's context.
struct TokenBatch {
  ModelInput input;
  torch::Tensor targets, counted;
  int64_t predictions = 0;  // counted targets
};

// Padding holds id 0 and target 0. No window and no source is longer than the plan's lengths.
TokenBatch MakeBatch(const Corpus& corpus, const BatchPlan& plan, torch::Device device);

// The corpus in `windows` (CutEvaluation), each from position 0 (of pairs, each target after its
// source), on `threads` threads. Batches windows of similar length, up to `batch_tokens` positions
// at once: memory does not grow with a document. The figures do not depend on the number of
// threads, but for rounding where these are more than the batches and operators share them. Shows
// how far it is where `progress` is given and it takes more than a moment. Throws ConvertError as
// WithDefaults does.
Evaluation Evaluate(const TrainingModel& model, const Corpus& corpus, int threads = 1,
                    const WindowOptions& windows = {}, Progress* progress = nullptr,
                    int64_t batch_tokens = 4096);

}  // namespace t2r::convert

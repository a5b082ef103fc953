#include "engine/executor/warm_up.h"

#include <algorithm>

namespace t2r {
namespace {

constexpr int kNobody = -1;  // the slot of padding

// `segments` segments that share `rows` rows, as even as can be, the first rows wanting logits.
Batch PaddingBatch(int64_t rows, int64_t segments, int64_t logit_rows) {
  Batch batch;
  for (int64_t i = 0; i < segments; ++i) {
    const int64_t first = rows * i / segments;
    const int64_t count = rows * (i + 1) / segments - first;
    batch.segments.push_back(
        {kNobody, static_cast<int32_t>(first), static_cast<int32_t>(count), 0, 0});
  }
  batch.positions.assign(static_cast<size_t>(rows), 0);
  batch.tokens.assign(static_cast<size_t>(rows), 0);
  for (int64_t i = 0; i < logit_rows; ++i) batch.logit_rows.push_back(static_cast<int32_t>(i));
  return batch;
}

}  // namespace

void WarmUp(Model& model, const Caches& caches, const StepLimits& limits, int64_t sessions) {
  // Scratch grows with the pieces of prompts: as many as there can be, of two rows each.
  const int64_t pieces =
      std::clamp<int64_t>(limits.max_rows / 2, 1, std::max<int64_t>(sessions, 1));
  if (model.config().encoder_decoder) {
    model.Encode(PaddingBatch(limits.max_rows, pieces, 0), caches);
  }
  model.Forward(PaddingBatch(limits.max_rows, pieces, limits.max_logit_rows), caches);
  int64_t rows = 1;
  while (rows <= std::min(sessions, limits.max_rows)) {
    const Batch batch = PaddingBatch(rows, rows, std::min(rows, limits.max_logit_rows));
    model.Forward(batch, caches);
    // The next number of rows that is not rounded up to this size.
    rows = std::max(model.Forward(batch, caches).rows, rows) + 1;
  }
}

void ReserveScratch(Model& model, const Caches& caches) {
  if (model.config().encoder_decoder) model.Encode(Batch(), caches);
  model.Forward(Batch(), caches);
}

}  // namespace t2r

// Beam search in another form, as a check: whole sequences in padded arrays, large negative scores
// for what does not count, as tensor implementations have it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/scheduler/beam_search.h"

namespace t2r {

// log p of every token after these generated ones: [vocabulary].
using NextLogprobs = std::function<std::vector<double>(std::span<const int32_t> generated)>;

struct ReferenceHypothesis {
  std::vector<int32_t> tokens;
  double score = 0;
};

// All `count` hypotheses, best first. The vocabulary must have count · (1 + terminal ids) tokens or
// more, at least 2 · count.
std::vector<ReferenceHypothesis> ReferenceBeams(const NextLogprobs& next, const BeamParams& params,
                                                int64_t max_tokens,
                                                const std::vector<int32_t>& terminal_ids);

}  // namespace t2r

// Greedy translation of many sources by the engine, as many at once as it has sessions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "convert/progress.h"
#include "engine/model/config.h"
#include "engine/model/executor.h"

namespace t2r::convert {

struct Translation {
  std::vector<int32_t> ids;  // without the end-of-sequence token
  bool ended = false;        // by that token; false: cut at the longest length
};

struct Translations {
  std::vector<Translation> outputs;  // of source i; no ids for an empty source
  int64_t tokens = 0;                // that the engine made, end-of-sequence tokens included
  double seconds = 0;
};

// `config` is the encoder-decoder that `executor` runs. A translation has at most `max_tokens`
// tokens (0: twice its source's and 10 more), and no more than the model's positions allow. The
// executor must be idle and have room for one session of the longest source. Throws ConvertError
// naming the source (counted from 1) that is too long.
Translations Translate(Executor* executor, const ModelConfig& config,
                       const std::vector<std::vector<int32_t>>& sources, int64_t max_tokens,
                       Progress* progress);

}  // namespace t2r::convert

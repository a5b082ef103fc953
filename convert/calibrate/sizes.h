// Sizes of a swap's layers: what a state takes, and where bytes save the most loss.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/ops/dtype.h"

namespace t2r::convert {

// Bytes of a session's state, whose keys and values in windows are kept as `window_dtype`: one
// causal linear attention, and all of a model's.
int64_t StateBytes(const ModelConfig& config, const LinearSizes& sizes, DType window_dtype);
int64_t StateBytes(const ModelConfig& config, DType window_dtype);
// float32 bytes of the key/value cache of one full attention over so many tokens.
int64_t CacheBytes(const ModelConfig& config, int64_t tokens);

// Which of `rungs` (the fewest bytes first) every layer gets within `budget` bytes, from what each
// costs each layer alone: nats[rung][layer]. Greedy: every layer starts on the first rung, and the
// step up that saves the most nats a byte is taken while one fits. Layers that are full stay on
// the first rung and count nothing. Throws ConvertError naming the least budget.
std::vector<size_t> SpendBytes(const ModelConfig& config, const std::vector<LinearSizes>& rungs,
                               const std::vector<std::vector<double>>& nats, int64_t budget,
                               DType window_dtype);

// What --window says: a number of keys, or auto: and budgets, or like: and a directory.
struct WindowFlag {
  int window = 0;
  std::vector<int64_t> budgets;  // sizes by layer within so many bytes, a model each
  std::string like;              // a swapped model with the same sizes by layer
};
WindowFlag ParseWindow(const std::string& text);

}  // namespace t2r::convert

// Greedy translation of many sources by the engine, as many at once as it has sessions; no
// LibTorch.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "convert/progress.h"
#include "engine/executor/executor.h"
#include "engine/model/config.h"
#include "engine/tokenizer/tokenizer.h"

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

struct TranslateOptions {
  int batch = 64;               // sessions translated together
  std::string backend = "cpu";  // auto, cpu or cuda
  int threads = 0;              // of the engine; 0: one a core
  std::string dtype = "auto";   // the engine's weights: auto, float32 or bfloat16
  int64_t max_tokens = 0;       // as above
};

struct TranslatedLines {
  std::vector<std::string> texts;  // of line i; line breaks within are spaces
  int64_t tokens = 0;              // as above
  int64_t cut = 0;                 // texts that reached their longest length
  double seconds = 0;
};

// Text to text: loads the model directory into an engine, whose tokenizer is `tokenizer`. Throws
// ConvertError where the engine cannot load it, and as Translate does.
TranslatedLines TranslateLines(const std::string& directory, const Tokenizer& tokenizer,
                               const std::vector<std::string>& lines,
                               const TranslateOptions& options, Progress* progress);

}  // namespace t2r::convert

// Text that a model writes itself, by the engine: what to train on where there is none. No
// LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/progress.h"
#include "engine/executor/executor.h"

namespace t2r::convert {

struct SelfTextOptions {
  int64_t tokens = 0;    // of all documents, at least
  int64_t length = 512;  // of a document, at most; an end-of-sequence token ends it sooner
  uint64_t seed = 1;
  int threads = 2;
  int batch = 32;  // documents written at once
};

// Documents sampled at temperature 1 from a first token on, which each holds first: the tokenizer's
// or the configuration's BOS, or else an end-of-sequence token. The same options give the same
// documents, whatever `batch`. Throws ConvertError where the engine cannot load the directory, or
// the model is an encoder-decoder.
std::vector<std::vector<int32_t>> WriteSelfText(const std::string& directory,
                                                const SelfTextOptions& options, Progress* progress);

// "self:200000" as 200000; 0 for any other text. Throws ConvertError where no positive number
// follows.
int64_t ParseSelfText(const std::string& train);

}  // namespace t2r::convert

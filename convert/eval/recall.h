// Whether a model still knows what stood some distance back: probes that can only be answered from
// there. By the engine; no LibTorch.
//
// Copying: a stretch of text, other text, and the stretch again; a few tokens of it are the cue,
// the others are asked. Key-value: pairs of two random tokens, text, and the pairs again in another
// order; each second token is asked. Every probe also runs as a control that lacks the answer: the
// first stretch is other text, or the pairs are mixed up.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/progress.h"
#include "engine/executor/executor.h"

namespace t2r::convert {

struct RecallOptions {
  // From the start of what is to be recalled to the start of where it is asked, in tokens.
  std::vector<int64_t> distances;
  int probes = 16;  // a kind and distance
  uint64_t seed = 1;
};

struct RecallResult {
  std::string kind;  // copying or key-value
  int64_t distance = 0;
  int64_t asked = 0;         // tokens
  double nats = 0;           // mean −log p of the tokens asked
  double control_nats = 0;   // the same of the controls
  double found = 0;          // share of the tokens asked that were the likeliest
  double control_found = 0;  // the same of the controls
};

// "auto" or distances such as "128,512". auto: 32, 64, 128 and so on, as far as a probe fits
// `window` tokens. Throws ConvertError on anything else, and on distances below the least (32) or
// beyond that.
std::vector<int64_t> ParseDistances(const std::string& text, int64_t window);

// Tokens of a probe at this distance, BOS included.
int64_t ProbeTokens(int64_t distance);

// Runs the probes, made of the corpus's tokens with its BOS first; the same options give the same
// probes. The executor must be idle and have room for a session
// of the longest probe. `progress` may be null. Throws ConvertError where the corpus is too small.
std::vector<RecallResult> MeasureRecall(Executor* executor, const Corpus& corpus,
                                        const RecallOptions& options, Progress* progress);

// A table for people.
std::string Table(const std::vector<RecallResult>& results);

}  // namespace t2r::convert

// Log-probabilities of text by the engine, many windows at once; no LibTorch.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/progress.h"
#include "engine/engine.h"
#include "engine/executor/executor.h"

namespace t2r::convert {

struct ScoreOptions {
  std::string backend = "auto";       // or cpu or cuda
  int threads = 0;                    // of the engine; 0: one a core
  std::string dtype = "auto";         // the engine's weights: as in EngineOptions
  std::string activations = "auto";   // likewise
  std::string window_dtype = "auto";  // likewise
};

// What an engine is to have room for.
struct ScoringRoom {
  int64_t longest = 1;   // positions of a session
  int64_t shortest = 0;  // likewise; 0: nothing was added
  int64_t source = 0;    // tokens of the longest source

  void Add(int64_t positions, int64_t source_tokens);
};

// An engine with room for the longest session, and for as many of the shortest as fill its steps:
// its memory does not grow with the text. Throws ConvertError where the directory cannot be loaded.
std::unique_ptr<Engine> LoadScoringEngine(const std::string& directory, const ScoringRoom& room,
                                          const ScoreOptions& options);

// What a window's predictions that count have come to: logprobs[i] is log p of the token that
// follows the window's token context + i.
using TakeScores = std::function<void(const Window& window, std::span<const float> logprobs)>;

// Runs every window from an empty state and hands over its scores, in an order that depends only on
// the windows and the executor's limits; they themselves do not depend on what runs beside them.
// The executor must be idle and have room for one session of the longest window; `progress` may be
// null. Throws ConvertError where there is no room.
void ScoreWindows(Executor* executor, const Corpus& corpus, std::span<const Window> windows,
                  const TakeScores& take, Progress* progress);

}  // namespace t2r::convert

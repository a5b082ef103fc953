// How evaluation cuts documents: windows that slide over them, as HF's guide to perplexity of
// fixed-length models describes it, so that its memory does not grow with a document.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "engine/model/config.h"

namespace t2r::convert {

// What a window holds where nobody says: the model's positions, at most so many tokens.
inline constexpr int64_t kMostDefaultWindow = 2048;

struct WindowOptions {
  int64_t window = 0;  // tokens; 0: the model's positions, at most kMostDefaultWindow
  int64_t stride = 0;  // tokens between the starts of windows; 0: window − 1
};

// The options with their defaults filled in. Throws ConvertError naming the option: a window of
// fewer than two tokens, one that a model with stored positions cannot hold (it may have one token
// more than positions, which is only predicted), a stride outside 1 … window, and any option for an
// encoder-decoder, whose pairs are always whole; its options come back as they are.
WindowOptions WithDefaults(const WindowOptions& options, const ModelConfig& config);

// Windows of each document at 0, stride, 2 · stride, … up to the first that reaches its end. A
// prediction counts in the first window that makes it, so with a stride below the window every
// token but a document's first counts once; with stride = window the first token of each window has
// nothing behind it and is left out. `options` are WithDefaults'. A pair is one window.
std::vector<Window> CutEvaluation(const Corpus& corpus, const WindowOptions& options);

// "windows of 512 tokens, stride 511".
std::string Describe(const WindowOptions& options);

}  // namespace t2r::convert

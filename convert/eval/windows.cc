#include "convert/eval/windows.h"

#include <algorithm>
#include <limits>

#include "convert/error.h"

namespace t2r::convert {

WindowOptions WithDefaults(const WindowOptions& options, const ModelConfig& config) {
  if (options.window < 0 || options.window == 1) {
    throw ConvertError("the evaluation's window is " + std::to_string(options.window) +
                       " tokens; it needs 2 or more, or 0 for the model's positions");
  }
  if (config.encoder_decoder.has_value() && (options.window != 0 || options.stride != 0)) {
    throw ConvertError("an encoder-decoder's pairs are evaluated whole: give no window or stride");
  }
  if (config.encoder_decoder.has_value()) return options;
  WindowOptions chosen = options;
  if (chosen.window == 0) {
    const int64_t positions = std::max<int64_t>(config.max_position_embeddings, 2);
    chosen.window = std::min(positions, kMostDefaultWindow);
  }
  const auto limit = config.position_limit();
  if (limit.has_value() && chosen.window > *limit + 1) {
    throw ConvertError("the evaluation's window is " + std::to_string(chosen.window) +
                       " tokens; the model's " + std::to_string(*limit) +
                       " stored positions allow at most " + std::to_string(*limit + 1));
  }
  if (chosen.stride == 0) chosen.stride = chosen.window - 1;
  if (chosen.stride < 1 || chosen.stride > chosen.window) {
    throw ConvertError("the evaluation's stride is " + std::to_string(options.stride) +
                       "; it must be 1 to the window's " + std::to_string(chosen.window));
  }
  return chosen;
}

std::vector<Window> CutEvaluation(const Corpus& corpus, const WindowOptions& options) {
  if (corpus.pairs()) return CutWindows(corpus, std::numeric_limits<int64_t>::max());
  std::vector<Window> windows;
  for (size_t i = 0; i < corpus.documents.size(); ++i) {
    const auto size = static_cast<int64_t>(corpus.documents[i].size());
    int64_t counted = 1;  // predictions of the tokens before this one are made
    for (int64_t start = 0; counted < size; start += options.stride) {
      const int64_t end = std::min(start + options.window, size);
      Window window;
      window.document = static_cast<int32_t>(i);
      window.start = start;
      window.length = end - start - 1;
      window.context = std::max<int64_t>(counted - start - 1, 0);
      if (window.context < window.length) windows.push_back(window);
      counted = end;
    }
  }
  return windows;
}

std::string Describe(const WindowOptions& options) {
  return "windows of " + std::to_string(options.window) + " tokens, stride " +
         std::to_string(options.stride);
}

}  // namespace t2r::convert

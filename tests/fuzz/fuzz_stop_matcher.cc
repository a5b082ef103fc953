// Any bytes as stop strings and the pieces of a text, some of them names of special tokens: the
// matcher stops where the definition says, and what comes out is the text up to there.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/text/stop_matcher.h"

// Two stop strings, then pieces; a piece that begins with an exclamation mark is a name.
std::vector<std::string> FuzzSeeds() {
  return {"END|ab|one E|ND of|it", "<e>|a<e>b|xa|!<e>|bc", "aa|aab|a|a|b", "|x|y|!x|x"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min<size_t>(size, 512));
  std::vector<std::string> parts(1);
  for (const char c : input) {
    if (c == '|') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  if (parts.size() < 3) return 0;
  const std::vector<std::string> stops = {parts[0], parts[1]};
  const auto ends = [&](const std::string& all) {
    return std::any_of(stops.begin(), stops.end(), [&](const std::string& stop) {
      return !stop.empty() && all.ends_with(stop);
    });
  };
  t2r::StopMatcher matcher(stops, false);
  std::string text, named, sent;
  for (size_t i = 2; i < parts.size(); ++i) {
    const bool name = parts[i].starts_with('!');
    const std::string piece = name ? parts[i].substr(1) : parts[i];
    bool expected = false;
    for (size_t k = 0; k < piece.size() && !expected; ++k) {
      named += piece[k];
      if (!name) text += piece[k];
      expected = ends(named) || (!name && ends(text));
    }
    const auto result = name ? matcher.AppendName(piece) : matcher.Append(piece);
    sent += result.text;
    if (result.stopped != expected || !text.starts_with(sent)) std::abort();
    if (expected) return 0;
  }
  if (sent + matcher.Finish() != text) std::abort();
  return 0;
}

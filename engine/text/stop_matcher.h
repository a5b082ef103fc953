// Finds stop strings in a text that arrives in pieces.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace t2r {

// Holds back text that may be the beginning of a stop string, so no part of one ever leaks, and
// nothing else. The text stops at the first byte where some stop string is complete; of several
// that end there the one that starts first wins, of equal ones the first given. What comes out in
// total does not depend on how the text is cut into pieces. An Aho-Corasick automaton: a byte costs
// the same for any number of stop strings.
class StopMatcher {
 public:
  // Empty strings are ignored. include: the matched stop string is part of the text.
  StopMatcher(const std::vector<std::string>& stops, bool include);

  struct Result {
    std::string text;      // safe to send now
    bool stopped = false;  // a stop string was completed: `text` ends before (or after) it
    int stop_index = -1;   // which, in the order given
  };
  // Whole code points in (with stop strings in UTF-8), whole code points out. After a stop every
  // text is dropped and the same stop reported.
  Result Append(const std::string& text);
  // The held-back text, when generation ends otherwise. Empty after a stop.
  std::string Finish();

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;
    int32_t suffix = 0;  // the node of the longest proper suffix that begins a stop string
    int32_t depth = 0;   // bytes
    int32_t stop = -1;   // the longest stop string that ends here
    int32_t stop_bytes = 0;
  };
  int32_t Child(int32_t node, uint8_t byte) const;
  int32_t Step(int32_t node, uint8_t byte) const;
  void Insert(const std::string& stop, int32_t index);
  void LinkSuffixes();

  std::vector<Node> nodes_;
  bool include_;
  int32_t node_ = 0;
  std::string held_;  // nodes_[node_].depth bytes
  int stopped_by_ = -1;
};

}  // namespace t2r

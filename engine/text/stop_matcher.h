// Finds stop strings in a text that arrives in pieces.
#pragma once

#include <cstdint>
#include <optional>
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
  // A special token came, which is no part of the text but has a name that stop strings may hold:
  // "<|im_end|>". A stop string matches if it does in the text with such names in it (then text
  // before it that is held back goes, and with `include` the stop string is whole), or in the text
  // without them.
  Result AppendName(const std::string& name);
  // The held-back text, when generation ends otherwise. Empty after a stop.
  std::string Finish();

  // Where a matcher stands that has not stopped: as much as another with the same stop strings
  // needs to go on there.
  struct Held {
    std::string text;  // held back
    // The end of the text with special tokens' names in it, where these make a difference: its
    // bytes, and for each 1 if it is part of a name, else 0.
    std::string named;
    std::string in_name;
  };
  Held held() const;
  // Goes on from there; before anything else. False, and nothing is changed, where no matcher with
  // these stop strings can have stood there.
  bool Resume(const Held& held);

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
  // The end of the text with names in it, as far as it may begin a stop string: a byte each, and
  // whether it is part of a name.
  struct Named {
    int32_t node = 0;
    std::string bytes;
    std::vector<bool> in_name;

    size_t text_bytes() const;
  };
  // Advances `named_` by a byte; whether a stop string is complete.
  bool StepNamed(char byte, bool in_name);
  // The result of a stop string that ends where named_ does.
  Result StopInNames(const std::string& text);
  // Lets go of what need not be held, after `text` was appended to the text.
  std::string Release(const std::string& text);

  int32_t node_ = 0;
  std::optional<Named> named_;  // only where a name makes a difference
  std::string held_;  // the text's last bytes: nodes_[node_].depth, or named_'s if these are more
  int stopped_by_ = -1;
};

}  // namespace t2r

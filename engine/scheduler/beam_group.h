// The slots of one beam search: which beam sits where, what each runs next, who is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/scheduler/beam_search.h"

namespace t2r {

// A session's slots when it has beams. One slot takes the prompt, at whose end the search begins;
// from then on a round runs one row of every beam, in one step or, where rows are short, in
// several.
//
// Beams do not move: one of a beam's children goes on in its slot, the others get slots whose beams
// have no child or that are still unused. So a round copies as many states as it has beams less
// the beams that had children, and since no slot is both read and written, in any order.
//
// Does not touch the executor. Owned and called by the engine thread.
class BeamGroup {
 public:
  struct Copy {
    int from = 0;
    int to = 0;
  };

  // search: not begun. A model of vocab_size tokens has no more alternatives than that.
  BeamGroup(BeamSearch search, int vocab_size);

  // As many as the search has beams. slots[0] takes the prompt.
  void Open(std::vector<int> slots);
  const std::vector<int>& slots() const { return slots_; }

  // Rows of the round that have no result yet: 1 while the prompt runs.
  int64_t due() const { return static_cast<int64_t>(running_.size() - taken_); }
  // Makes the row of the i-th beam that is due; only its position is the caller's. The prompt's
  // row asks for alternatives too, its tokens being the caller's. Valid until a round is complete.
  ScheduledChunk NextChunk(int64_t i) const;
  // Takes the result of NextChunk(0). True when it completes the round: the copies of TakeCopies
  // must then be made before the next one, unless the search is done().
  bool Accept(ChunkResult&& result);
  // The copies of the round completed last; none when asked again.
  std::vector<Copy> TakeCopies() { return std::exchange(copies_, {}); }

  bool done() const { return search_.done(); }
  // What has ended so far, best first.
  const std::vector<BeamSearch::Hypothesis>& hypotheses() const { return search_.hypotheses(); }

 private:
  void PlaceBeams();

  BeamSearch search_;
  const int alternatives_;
  std::vector<int> slots_;
  std::vector<int> running_;                     // slot of each beam
  std::vector<int> spare_;                       // the others
  std::vector<std::vector<TokenLogprob>> tops_;  // [beams], of this round
  size_t taken_ = 0;                             // of them filled
  std::vector<Copy> copies_;
};

}  // namespace t2r

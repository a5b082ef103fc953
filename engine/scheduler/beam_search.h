// Beam search as a pure function of log probabilities: scores, hypotheses, and when to stop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/executor/executor.h"

namespace t2r {

// What of a search is left to do once `count` hypotheses have ended.
enum class EarlyStopping : uint8_t {
  kFalse,  // goes on while the best beam, scored at its length, beats the worst hypothesis
  kTrue,   // ends
  // Goes on while the best beam would beat the worst hypothesis if it gained tokens of probability
  // 1 up to max_tokens; with a length_penalty ≤ 0, which favours short ones, as kFalse.
  kNever,
};

struct BeamParams {
  int count = 0;  // beams; 0: no beam search
  float length_penalty = 1.0F;
  int num_return = 1;  // hypotheses to report, 1 to count
  EarlyStopping early_stopping = EarlyStopping::kFalse;
};

// The definition is that of Hugging Face transformers' generate (4.50 and later) for one prompt:
//
// A step extends every beam by every token; extensions are ordered by Σ log p. Those that end and
// are among the first `count` of that order become hypotheses, of which the `count` best are kept;
// those that end further down are dropped. The first `count` that do not end are the next beams. At
// max_tokens every extension ends. A hypothesis scores Σ log p / length^length_penalty, where
// length is its generated tokens, the one that ended it included. With one beam the search is
// greedy decoding: it ends with its first hypothesis.
//
// Log probabilities are summed in float64. Ties go to the better parent, then to the lower token;
// among hypotheses to the older. Not thread-safe.
class BeamSearch {
 public:
  struct Beam {
    int parent = 0;  // its place among the beams before the last Advance
    int32_t token = 0;
    double logprob = 0;  // of all its tokens
  };
  struct Hypothesis {
    std::vector<int32_t> tokens;  // the one that ended it included
    double score = 0;
  };

  // params.count ≥ 1, max_tokens ≥ 1. A terminal token ends a hypothesis; a suppressed one is
  // passed over as if its probability were 0.
  BeamSearch(const BeamParams& params, int64_t max_tokens, std::vector<int32_t> terminal_ids,
             std::vector<int32_t> suppressed_ids);

  // How many alternatives decide a step, of each beam: `count` that go on, and all the others.
  static int64_t AlternativesOf(int count, size_t terminal_ids, size_t suppressed_ids) {
    return int64_t{count} + static_cast<int64_t>(terminal_ids + suppressed_ids);
  }
  int64_t alternatives() const {
    return AlternativesOf(params_.count, terminal_ids_.size(), suppressed_ids_.size());
  }

  // The running beams, best first: at first the prompt alone, of which only logprob has a meaning.
  // Fewer than count only where too few alternatives have a finite log probability.
  std::span<const Beam> beams() const { return beams_; }
  // One step. tops[i]: the alternatives() most likely tokens after beams()[i] (all there are, if
  // fewer). Those whose log probability is not finite are passed over. Not once done.
  void Advance(std::span<const std::vector<TokenLogprob>> tops);
  // Nothing can be gained any more, or no beam is left.
  bool done() const { return done_; }
  // What has ended, best first, at most `count`.
  const std::vector<Hypothesis>& hypotheses() const { return hypotheses_; }

 private:
  struct Candidate {
    double logprob = 0;
    int parent = 0;
    int32_t token = 0;
  };
  // The tokens of the beams are a tree; parents come before their children.
  struct Node {
    int32_t token = 0;
    int32_t before = -1;  // in nodes_; -1: the prompt
  };

  void Gather(std::span<const std::vector<TokenLogprob>> tops);
  void Keep(const Candidate& candidate);
  bool CanImprove() const;
  double Score(double logprob, int64_t length) const;
  // Drops the nodes that no beam comes from.
  void Prune();

  const BeamParams params_;
  const int64_t max_tokens_;
  const std::vector<int32_t> terminal_ids_;
  const std::vector<int32_t> suppressed_ids_;
  bool done_ = false;
  int64_t length_ = 0;  // tokens of each beam
  std::vector<Beam> beams_;
  std::vector<int32_t> leaves_;  // of the beams, in nodes_
  std::vector<Hypothesis> hypotheses_;
  std::vector<Node> nodes_;
  size_t prune_at_;                    // nodes
  std::vector<Candidate> candidates_;  // of a step, best first as far as they matter
};

}  // namespace t2r

// Prompts that begin alike cost once: states of prompts' beginnings, kept in the executor, and the
// tree that finds them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/prefix/prefix_stops.h"
#include "engine/prefix/prefix_tree.h"

namespace t2r {

// Tokens of prompts, and of these the ones that were not run since a state had them; what is kept;
// states that went for others.
struct PrefixStats {
  int64_t queried = 0, hit = 0;
  int64_t states = 0, bytes = 0;
  int64_t evictions = 0;
};

// Called by the engine thread only, between steps. What throws does so as the executor's functions
// do, and leaves the cache as it can go on. Does nothing where the executor keeps no prefixes.
class PrefixCache {
 public:
  // executor must outlive it. prompt_chunk: prompt tokens of a step. shared: one tenant's prompts
  // may profit from another's.
  PrefixCache(Executor& executor, const ExecutorLimits& limits, int64_t prompt_chunk, bool shared);

  bool on() const { return tree_.has_value(); }

  struct Start {
    int64_t cached = 0;             // tokens of the prompt that need not be run
    std::vector<PrefixStop> stops;  // where Keep is to be called, ascending
  };
  // A slot was opened for a prompt of this tenant (empty: nobody named): it goes on from the
  // longest state that there is of the prompt's beginning.
  Start Begin(int slot, const std::string& tenant, std::span<const int32_t> prompt);
  // The slot stands behind just these tokens, at a stop. Other states may go for this one.
  void Keep(int slot, const std::string& tenant, std::span<const int32_t> tokens, bool spare);
  // Drops all states.
  void Clear();

  const PrefixStats& stats() const { return stats_; }

 private:
  const std::string& KeyOf(const std::string& tenant) const {
    return shared_ ? everybody_ : tenant;
  }
  // Drops the state that is the next to go: whether there was one.
  bool Evict(bool spares_only);
  void Count();

  Executor& executor_;
  const int64_t max_positions_;  // that a state may have; 0: no limit
  const bool shared_;
  const std::string everybody_;
  const PrefixRules rules_;
  std::optional<PrefixTree> tree_;  // none: the executor keeps no prefixes
  PrefixStats stats_;
};

}  // namespace t2r
